"""Contract 7: adversarial passes normalise by their own batch; what they do to running statistics
is as asked for.
"""

from types import SimpleNamespace

import mmcv.ops.sync_bn
import pytest
import torch
import torch.nn.functional as F
from mmengine.model.utils import revert_sync_batchnorm

from support.tiny import (
    HOSTS,
    assert_close,
    assert_identical,
    batch_of,
    build,
    gradients,
    optim_wrapper,
    stock_config,
    train,
    with_afan,
)

SETTINGS = dict(epsilon=0.1, num_strengths=2, strengths='linspace')


def config_of(host, **settings):
    """A host with batch norm before and after its site 'neck'."""
    config = stock_config(host)
    if host == 'detector':
        config.neck.update(norm_cfg=dict(type='BN'))
    return with_afan(config, neck=dict(SETTINGS, **settings)), config


def buffers(model):
    return {
        name: buffer.clone()
        for name, buffer in model.named_buffers()
        if 'running' in name or 'num_batches' in name
    }


def in_tail(host, name):
    return name.startswith('neck' if host == 'detector' else 'decode_head')


@pytest.mark.parametrize('num_steps', (1, 2))
@pytest.mark.parametrize('host', HOSTS)
def test_running_statistics(host, num_steps):
    """'clean': exactly the stock ones. 'all': the tail's norms also count one attack pass and two
    adversarial ones.
    """
    clean, stock_config_ = config_of(host, bn_stats='clean', num_steps=num_steps)
    every, _ = config_of(host, bn_stats='all', num_steps=num_steps)
    after = []
    for config, kind in (
        (stock_config_, 'OptimWrapper'),
        (clean, 'AFANOptimWrapper'),
        (every, 'AFANOptimWrapper'),
    ):
        model = build(config)
        train(model, optim_wrapper(model, kind), [batch_of(host)])
        after.append(buffers(model))
    stock, clean, every = after
    assert_identical(clean, stock)
    counts = {
        name: int(value) for name, value in every.items() if name.endswith('num_batches_tracked')
    }
    assert counts == {name: (2 + num_steps) if in_tail(host, name) else 1 for name in counts}
    means = [name for name in stock if name.endswith('running_mean')]
    assert any(in_tail(host, name) for name in means) and not all(
        in_tail(host, name) for name in means
    )
    for name in means:
        assert torch.equal(every[name], stock[name]) != in_tail(host, name), name


@pytest.mark.parametrize('bn_stats', ('clean', 'all'))
@pytest.mark.parametrize('host', HOSTS)
def test_passes_normalise_by_their_own_batch(host, bn_stats):
    """An adversarial pass without a perturbation is the clean pass again: two of them triple every
    gradient they reach.
    """
    config, stock = config_of(host, bn_stats=bn_stats, perturbation='none', moments=None)
    if host == 'segmentor':  # the auxiliary head is not run again
        config.pop('auxiliary_head'), stock.pop('auxiliary_head')
    ours, once = gradients(build(config), batch_of(host)), gradients(build(stock), batch_of(host))
    assert_close(ours, {name: None if g is None else 3 * g for name, g in once.items()})


@pytest.mark.parametrize('bn_stats', ('clean', 'all'))
@pytest.mark.parametrize('host', HOSTS)
def test_frozen_norms_stay_frozen(host, bn_stats):
    """``norm_eval`` and ``frozen_stages`` in the front, norms in evaluation mode in the tail: no
    buffer moves.
    """
    config, _ = config_of(host, bn_stats=bn_stats)
    config.backbone.update(norm_eval=True, frozen_stages=1)
    model = build(config)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.eval()
    before = buffers(model)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    train(model, optim_wrapper(model), [batch_of(host, seed=step) for step in range(2)])
    assert frozen and before
    assert_identical(buffers(model), before)
    assert_identical({name: p for name, p in model.named_parameters() if name in frozen}, frozen)
    assert not any(norm.training for norm in norms) and all(
        norm.track_running_stats for norm in norms
    )


def test_sync_batch_norm_is_kept_from_the_passes_too():
    """SyncBN needs an accelerator to run; reverted for the CPU, as the Runner does, it is treated
    like BN.
    """
    config, stock = config_of('segmentor')
    for each in (config, stock):
        each.decode_head.norm_cfg = dict(type='SyncBN')
    after = []
    for each, kind in ((stock, 'OptimWrapper'), (config, 'AFANOptimWrapper')):
        model = revert_sync_batchnorm(build(each)).train()
        train(model, optim_wrapper(model, kind), [batch_of('segmentor')])
        after.append(buffers(model))
    assert_identical(*after)


class OwnKernel:
    """mmcv's kernel is for CUDA; like this it normalises by the batch and writes to the buffers."""

    @staticmethod
    def apply(x, mean, var, weight, bias, momentum, eps, *group):
        return F.batch_norm(x, mean, var, weight, bias, True, momentum, eps)


def test_sync_batch_norm_of_mmcv_is_kept_from_the_passes_too(monkeypatch):
    """No batch norm of torch's, so that flags of those do not reach it; 'all' shows that the passes
    run it.
    """
    one_process = SimpleNamespace(group=SimpleNamespace(WORLD=None), get_world_size=lambda group: 1)
    monkeypatch.setattr(mmcv.ops.sync_bn, 'dist', one_process)
    monkeypatch.setattr(mmcv.ops.sync_bn, 'SyncBatchNormFunction', OwnKernel)
    stock, after = config_of('segmentor')[1], {}
    for bn_stats in (None, 'clean', 'all'):
        config = stock if bn_stats is None else config_of('segmentor', bn_stats=bn_stats)[0]
        config.decode_head.norm_cfg = dict(type='MMSyncBN')
        model = build(config)
        norms = [type(m) for m in model.decode_head.modules()]
        assert mmcv.ops.SyncBatchNorm in norms and torch.nn.BatchNorm2d not in norms
        kind = 'OptimWrapper' if bn_stats is None else 'AFANOptimWrapper'
        train(model, optim_wrapper(model, kind), [batch_of('segmentor')])
        after[bn_stats] = buffers(model)
    assert_identical(after['clean'], after[None])
    changed = {name for name in after[None] if not after['all'][name].equal(after[None][name])}
    assert changed == {name for name in after[None] if in_tail('segmentor', name)}
