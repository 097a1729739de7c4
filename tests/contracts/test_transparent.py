"""Contract 4: a model with A-FAN components is the stock model to checkpoints, optimizers,
inference and copies.
"""

import copy
import inspect

import mmseg
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.runner import load_checkpoint

from support.tiny import (
    HOSTS,
    assert_identical,
    batch_of,
    build,
    optim_wrapper,
    parameters,
    stock_config,
    train,
    with_afan,
)

COMPONENTS = (
    ('segmentor', dict(neck=dict())),
    ('segmentor', dict(head=dict())),
    ('segmentor', dict(head=dict(site='bottleneck'))),
    ('detector', dict(neck=dict())),
    ('detector', dict(neck=dict(site='output', levels=(0, 1)))),
    ('detector', dict(head=dict())),
    ('detector', dict(head=dict(site='map'))),
)
every_component = pytest.mark.parametrize(
    'host, sites', COMPONENTS, ids=lambda value: str(value).replace(' ', '')
)


def pair(host, sites, seed=0):
    return build(with_afan(stock_config(host), **sites), seed), build(stock_config(host), seed)


@torch.no_grad()
def predictions(model, host):
    """The raw results of inference."""
    model.eval()
    if host == 'detector':
        model.roi_head.test_cfg.score_thr = 0.0  # an untrained model is sure of nothing
    batch = batch_of(host, seed=3)
    batches = [batch]
    if host == 'segmentor' and mmseg.__version__.startswith('1.0.'):  # takes one image at a time
        batches = [dict(zip(batch, zip(one))) for one in zip(*batch.values())]
    samples = [sample for each in batches for sample in model.test_step(each)]
    model.train()
    if host == 'segmentor':
        return {str(i): sample.seg_logits.data for i, sample in enumerate(samples)}
    return {
        f'{i}/{key}': sample.pred_instances[key]
        for i, sample in enumerate(samples)
        for key in ('bboxes', 'scores', 'labels')
    }


@every_component
def test_names_and_classes_are_the_stock_ones(host, sites):
    ours, stock = pair(host, sites)
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [
        name for name, _ in stock.named_parameters()
    ]
    for name, module in stock.named_modules():
        assert isinstance(ours.get_submodule(name), type(module)), name


@every_component
def test_init_weights_is_the_stock_one(host, sites):
    ours, stock = pair(host, sites, seed=4)
    assert_identical(ours.state_dict(), stock.state_dict())
    assert not torch.equal(
        next(ours.parameters()), next(build(stock_config(host), seed=5).parameters())
    )


@every_component
def test_inference_is_the_stock_one(host, sites):
    """Also after training with A-FAN, in a stock model that loads the trained weights, and the
    other way round.
    """
    ours, stock = pair(host, sites)
    train(ours, optim_wrapper(ours), [batch_of(host, seed=i) for i in range(2)])
    stock.load_state_dict(ours.state_dict(), strict=True)
    expected = predictions(stock, host)
    assert all(value.numel() for value in expected.values())
    assert_identical(predictions(ours, host), expected)
    fresh = build(with_afan(stock_config(host), **sites), seed=1)
    fresh.load_state_dict(stock.state_dict(), strict=True)
    assert_identical(predictions(fresh, host), expected)


@every_component
def test_inference_inside_a_clean_pass_is_the_stock_one(host, sites):
    """Gradients off means no tap: evaluating a model between forward and backward disturbs
    neither.
    """
    ours, stock = pair(host, sites)
    wrapper = optim_wrapper(ours)
    with wrapper.optim_context(ours):
        before = predictions(ours, host)
    assert_identical(before, predictions(stock, host))


@every_component
def test_param_groups_are_the_stock_ones(host, sites):
    keys = {
        'backbone': dict(lr_mult=0.1),
        'neck': dict(lr_mult=2.0),
        'head': dict(lr_mult=10.0, decay_mult=0.5),
        'conv_seg': dict(lr_mult=3.0),
        'bbox_head': dict(decay_mult=0.0),
    }

    def groups(model):
        config = dict(
            type='OptimWrapper',
            optimizer=dict(type='SGD', lr=0.01, weight_decay=1e-4),
            paramwise_cfg=dict(custom_keys=keys, norm_decay_mult=0.0, bias_lr_mult=2.0),
        )
        names = {id(p): name for name, p in model.named_parameters()}
        return [
            ([names[id(p)] for p in group['params']], group['lr'], group['weight_decay'])
            for group in build_optim_wrapper(model, config).optimizer.param_groups
        ]

    ours, stock = map(groups, pair(host, sites))
    assert ours == stock
    assert len({(lr, decay) for _, lr, decay in stock}) >= 3


@every_component
def test_copies_train_on_their_own(host, sites):
    """A deep copy is a complete A-FAN model: it trains as the original does, and leaves the
    original alone.
    """
    ours, _ = pair(host, sites)
    train(ours, optim_wrapper(ours), [batch_of(host)])
    copied = copy.deepcopy(ours)
    before = parameters(ours)
    logs = train(copied, optim_wrapper(copied), [batch_of(host, seed=1)])
    assert_identical(parameters(ours), before)
    assert logs == train(ours, optim_wrapper(ours), [batch_of(host, seed=1)])
    assert_identical(parameters(copied), parameters(ours))


@pytest.mark.parametrize('host', HOSTS)
def test_mmengine_checkpoints_load_strictly_both_ways(host, tmp_path):
    """mmengine collects a checkpoint with its own ``get_state_dict``, not with ``state_dict``."""
    from mmengine.runner import save_checkpoint
    from mmengine.runner.checkpoint import get_state_dict

    ours, stock = pair(host, dict(neck=dict(), head=dict()))
    train(ours, optim_wrapper(ours), [batch_of(host)])
    for source, target in ((ours, stock), (build(stock_config(host), seed=2), ours)):
        save_checkpoint(
            dict(meta=dict(), state_dict=get_state_dict(source)), str(tmp_path / 'model.pth')
        )
        load_checkpoint(target, str(tmp_path / 'model.pth'), strict=True)
        assert_identical(target.state_dict(), source.state_dict())


@pytest.mark.parametrize('host', HOSTS)
def test_models_are_pickled_and_share_their_classes(host, tmp_path):
    """As ``torch.save(model)`` and spawned processes need it; the copy trains as the model does."""
    first, second = (build(with_afan(stock_config(host), neck={}, head={})) for _ in range(2))
    for name, module in first.named_modules():
        assert type(module) is type(second.get_submodule(name)), name
    torch.save(first, tmp_path / 'model.pth')
    if 'weights_only' in inspect.signature(torch.load).parameters:
        copied = torch.load(tmp_path / 'model.pth', weights_only=False)
    else:
        copied = torch.load(tmp_path / 'model.pth')
    assert type(copied.neck) is type(first.neck)
    for model in (first, copied):
        train(model, optim_wrapper(model), [batch_of(host)])
    assert_identical(parameters(copied), parameters(first))
