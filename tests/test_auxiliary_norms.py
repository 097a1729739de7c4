"""Auxiliary batch norms: where they are, where their values come from, and that the model is the
stock one without them.
"""

import copy
import pickle
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from torch import nn

from afan_mm import AFANSettings, tap
from afan_mm.analysis.checkpoints import build_model
from afan_mm.auxiliary_norms import NAME, add_auxiliary_norms, batch_norms, check_auxiliary_norms
from afan_mm.cli.config_check import check_model
from afan_mm.utils.errors import UsageError
from afan_mm.utils.models import load_exactly, publish
from support.runs import train as run_training
from support.tiny import (
    HOSTS,
    assert_identical,
    batch_of,
    build,
    gradients,
    optim_wrapper,
    parameters,
    segmentor_config,
    stock_config,
    train,
    with_afan,
)
from support.toy import Host, batch

SITE = dict(epsilon=0.1, num_strengths=1, moments=None, bn_stats='auxiliary')


def config_of(stock, afan=None, **sites):
    return type(stock)(
        dict(with_afan(stock, **sites), type='AFANModel', base=stock.type, afan=afan)
    )


def with_auxiliary(model):
    return {name for name, norm in batch_norms(model) if NAME in norm._modules}


def auxiliary(state):
    return {key.replace(f'.{NAME}', ''): state[key] for key in state if NAME in key}


def norms_in(state, like):
    return {key: state[key] for key in auxiliary(like)}


def scrambled(state):
    """Other values everywhere; variances stay positive."""
    generator = torch.Generator().manual_seed(3)
    return {
        key: torch.rand(value.shape, generator=generator) + 0.5
        if value.is_floating_point()
        else value + 3
        for key, value in state.items()
    }


@pytest.mark.parametrize('host', HOSTS)
def test_every_norm_of_the_tail_has_one(host):
    stock = stock_config(host)
    every = {name for name, _ in batch_norms(build(stock))}
    expected = dict(
        image=every,
        input={name for name in every if not name.startswith('backbone.')},
        stage={
            name for name in every if not re.match(r'backbone\.(conv1|bn1|stem|layer[12])', name)
        },
        off=set(),
        clean=set(),
    )
    found = dict(
        image=config_of(stock, SITE),
        input=config_of(stock, neck=SITE),
        stage=config_of(stock, neck=dict(SITE, site='backbone.layer2')),
        off=config_of(stock, dict(SITE, num_strengths=0)),
        clean=config_of(stock, dict(SITE, bn_stats='clean'), neck=dict(SITE, bn_stats='all')),
    )
    for key, config in found.items():
        assert with_auxiliary(build(config)) == expected[key], key


def test_sites_of_a_head():
    """After what the classifier or the RoI vector gives there is no norm."""
    stock = segmentor_config()
    model = build(config_of(stock, head=SITE))
    assert not with_auxiliary(model)
    model = build(config_of(stock, head=dict(SITE, site='bottleneck')))
    assert {name.split('.')[1] for name in with_auxiliary(model)} == {
        'c1_bottleneck',
        'sep_bottleneck',
    }
    vector = build(config_of(stock_config('detector'), head=SITE))
    assert not with_auxiliary(vector)


@pytest.mark.parametrize('host', HOSTS)
def test_they_start_as_the_main_norms_do(host):
    """Where these are initialised, and where a checkpoint of the stock model is loaded."""
    stock = stock_config(host)
    stock.backbone.zero_init_residual = True  # changes norms by their names
    model = build(config_of(stock, SITE))
    state = model.state_dict()
    assert any(not value.any() for key, value in auxiliary(state).items() if '.bn2.weight' in key)
    assert_identical(auxiliary(state), norms_in(state, state))
    given = scrambled(build(stock).state_dict())
    model.load_state_dict(given, strict=True)
    assert_identical(auxiliary(model.state_dict()), norms_in(given, state))
    own = scrambled(model.state_dict())
    model.load_state_dict(own, strict=True)
    model.init_weights()  # warns that it was done before
    assert_identical(dict(model.state_dict()), own)


def test_checkpoints_go_both_ways(tmp_path):
    """By mmengine's loading, which tells what is missing, and by the exact one; also what a
    backbone starts from.
    """
    stock = segmentor_config()
    path, own_path = str(tmp_path / 'stock.pth'), str(tmp_path / 'own.pth')
    given = scrambled(build(stock).state_dict())
    torch.save(dict(state_dict=given, meta={}), path)
    for load in (lambda m: load_checkpoint(m, path, strict=True), lambda m: load_exactly(m, path)):
        model = build(config_of(stock, SITE))
        load(model)
        assert_identical(auxiliary(model.state_dict()), norms_in(given, model.state_dict()))

    torch.save(dict(state_dict=model.state_dict(), meta={}), own_path)
    for load in (lambda m: load_checkpoint(m, own_path), lambda m: load_exactly(m, own_path)):
        plain = build(stock)
        load(plain)
        assert_identical(dict(plain.state_dict()), given)
    cfg = Config(dict(model=config_of(stock, SITE), default_scope='mmseg'))
    analysed = build_model(cfg)
    load_exactly(analysed, own_path)
    assert_identical(dict(analysed.state_dict()), given)
    published = publish(own_path, str(tmp_path / 'published'))
    assert torch.load(published)['state_dict'].keys() == given.keys()
    load_checkpoint(build(stock), published, strict=True)

    config = config_of(stock, SITE)
    backbone = {k[len('backbone.') :]: v for k, v in given.items() if k.startswith('backbone.')}
    torch.save(backbone, path)
    config.backbone.init_cfg = dict(type='Pretrained', checkpoint=path)
    logged, logger = [], MMLogger.get_current_instance()
    handler = type('', (type(logger.handlers[0]),), dict(emit=lambda s, r: logged.append(r)))()
    logger.addHandler(handler)
    model = build(config)
    logger.removeHandler(handler)
    assert not [r for r in logged if 'missing' in r.getMessage() and NAME in r.getMessage()]
    state = model.state_dict()
    for key, value in backbone.items():
        assert torch.equal(state[f'backbone.{key}'], value)
    assert_identical(auxiliary(state), norms_in(state, state))


@pytest.mark.parametrize('host', HOSTS)
def test_inference_and_stock_training_use_the_main_norms(host):
    stock = stock_config(host)
    plain, model = build(stock), build(config_of(stock, SITE))
    names = plain.state_dict().keys()
    others = {k: v for k, v in scrambled(model.state_dict()).items() if k not in names}
    model.load_state_dict({**plain.state_dict(), **others}, strict=True)
    data = [batch_of(host)]
    for each in (plain, model):
        train(each, optim_wrapper(each, 'OptimWrapper'), data)
    state = model.state_dict()
    assert_identical({key: state[key] for key in names}, dict(plain.state_dict()))
    assert_identical({key: state[key] for key in others}, others)
    image = plain.data_preprocessor(copy.deepcopy(data[0]), False)['inputs']
    with torch.no_grad():
        for ours, theirs in zip(model.eval().extract_feat(image), plain.eval().extract_feat(image)):
            assert torch.equal(ours, theirs)


def test_they_follow_what_the_host_does_with_its_norms():
    """Frozen stages, norms in evaluation mode, options of the optimizer by kind, copies."""
    stock = segmentor_config()
    stock.backbone.update(frozen_stages=1, norm_eval=True)
    model = build(config_of(stock, SITE))
    names = dict(model.named_parameters())
    assert not names[f'backbone.layer1.0.bn1.{NAME}.weight'].requires_grad
    assert names[f'backbone.layer2.0.bn1.{NAME}.weight'].requires_grad
    before = parameters(model)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    train(model, optim_wrapper(model), [batch_of('segmentor')])
    train(copied, optim_wrapper(copied), [batch_of('segmentor')])
    assert_identical(parameters(copied), parameters(model))
    for name, value in parameters(model).items():
        frozen = 'running' in name and name.startswith('backbone.')
        if frozen or f'layer1.0.bn1.{NAME}.weight' in name:
            assert torch.equal(value, before[name]), name
    weight = f'backbone.layer2.0.bn1.{NAME}.weight'
    assert not torch.equal(names[weight], before[weight])
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='AFANOptimWrapper',
            optimizer=dict(type='SGD', lr=0.1, weight_decay=0.1),
            paramwise_cfg=dict(norm_decay_mult=0),
        ),
    )
    decays = {id(p): g['weight_decay'] for g in wrapper.param_groups for p in g['params']}
    assert (
        decays[id(names[weight])] == 0
        and decays[id(names['backbone.layer2.0.conv1.weight'])] == 0.1
    )


def test_synchronised_norms_are_reverted_with_theirs():
    stock = segmentor_config()
    for part in (stock.backbone, stock.decode_head, stock.auxiliary_head):
        part.norm_cfg = dict(type='SyncBN', requires_grad=True)
    model = build(config_of(stock, SITE))
    names = set(model.state_dict())
    model = revert_sync_batchnorm(model)
    assert set(model.state_dict()) == names and with_auxiliary(model)
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    train(model, optim_wrapper(model), [batch_of('segmentor')])


@pytest.mark.parametrize('bad', ([3], 3, dict(SITE, bn_stats='own')))
def test_settings_that_are_refused(bad):
    with pytest.raises(Exception, match='afan|bn_stats'):
        build(config_of(segmentor_config(), bad))


def test_pixels_are_those_of_an_image():
    model = build(with_afan(segmentor_config(), neck=dict(SITE, epsilon_unit='pixel')))
    add_auxiliary_norms(model)
    with pytest.raises(ValueError, match=r"site 'neck': .* image of 3 channels, .*\(2, 64, 4, 4\)"):
        gradients(model, batch_of('segmentor'))
    with pytest.raises(ValueError, match="epsilon_unit must be .* with norm='l2'.*got 'pixel'"):
        AFANSettings(norm='l2', epsilon_unit='pixel')


def test_a_model_without_them_is_refused(tmp_path):
    """Before training starts, by the command line's check, and in a loop of the user's own."""
    stock = segmentor_config()
    config = with_afan(stock, neck=SITE)
    message = r"bn_stats='auxiliary' needs .* \(such as decode_head.*model=dict\(type='AFANModel'"
    with pytest.raises(ValueError, match=message):
        run_training(config, tmp_path)
    model = build(config)
    with pytest.raises(RuntimeError, match=r"site 'neck' .*norm decode_head.*'AFANModel'"):
        gradients(model, batch_of('segmentor'))
    add_auxiliary_norms(model)
    check_auxiliary_norms(model)
    gradients(model, batch_of('segmentor'))


def test_command_line_tells_a_model_without_them():
    config = Config(
        dict(
            model=with_afan(segmentor_config(), neck=SITE),
            default_scope='mmseg',
            optim_wrapper=dict(type='AFANOptimWrapper'),
        )
    )
    with pytest.raises(UsageError, match="model: bn_stats='auxiliary' needs"):
        check_model(config)


def test_passes_of_a_later_site_leave_the_norms_before_it_alone():
    """Where the image has norms of its own, too: what is computed again before the later site is the
    clean pass.
    """
    model = build(
        config_of(stock_config('detector'), SITE, neck=dict(SITE, site='backbone.layer2'))
    )
    gradients(model, batch_of('detector'))
    after = parameters(model)
    for norm, passes in (('bn1', 1), ('layer2.1.bn2', 1), ('layer3.0.bn1', 2)):
        assert after[f'backbone.{norm}.{NAME}.num_batches_tracked'] == passes, norm
        assert after[f'backbone.{norm}.num_batches_tracked'] == 1, norm


def test_a_model_that_renames_its_weights():
    """mmpretrain's TimmClassifier keeps timm's names in its checkpoints."""
    pytest.importorskip('mmpretrain')
    pytest.importorskip('timm')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        stock = dict(type='TimmClassifier', model_name='resnet18', num_classes=3)
        site = dict(SITE, site='model.layer3')
        given = scrambled(MODELS.build(dict(stock)).state_dict())
        model = MODELS.build(dict(stock, type='AFANModel', base='TimmClassifier', afan=site))
    model.load_state_dict(dict(given), strict=True)
    state = model.state_dict()
    assert auxiliary(state) and not any(key.startswith('model.') for key in state)
    assert_identical(auxiliary(state), norms_in(given, state))
    own = scrambled(state)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    for each in (model, copied):
        each.load_state_dict(dict(own), strict=True)
        assert_identical(dict(each.state_dict()), own)


def test_own_tap():
    """All norms of the model may be in a tail that only the user knows; one that the passes do not
    run stays as it is.
    """
    settings = AFANSettings(name='site', **SITE)

    def run(model, x, y):
        def tail(feature):
            return dict(loss=nn.functional.cross_entropy(model.classifier(model.norm(feature)), y))

        return tail(tap('site', model.front(x), tail, settings))

    model = Host(run).double().train()
    model.afan = settings
    model.unused = nn.BatchNorm1d(6)
    add_auxiliary_norms(model)
    assert with_auxiliary(model) == {'norm', 'unused'}
    before = parameters(model)
    found = gradients(model, batch())
    assert found[f'norm.{NAME}.weight'].any() and found[f'unused.{NAME}.weight'] is None
    after = parameters(model)
    assert after[f'norm.{NAME}.num_batches_tracked'] == after['norm.num_batches_tracked'] == 1
    assert torch.equal(after['unused.running_mean'], before['unused.running_mean'])
