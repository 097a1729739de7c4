"""Which components a stock config gets, what an inheriting config states for them, and what is
refused.
"""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS as MMSEG_MODELS
from torch import nn

from afan_mm import AFANHook
from afan_mm.conversion import ConversionError, convert, converted
from support.tiny import (
    build,
    detection_batch,
    detector_config,
    gradients,
    segmentation_batch,
    segmentor_config,
    with_afan,
)

AFAN = dict(epsilon=0.1, num_strengths=2)
PAPER = dict(AFAN, preset='paper')
OPTIMIZER = dict(type='SGD', lr=0.1)
STOCK = dict(type='OptimWrapper', optimizer=OPTIMIZER)


GARDEN = """
from mmengine.registry import MODELS, Registry
from mmpretrain.models import ImageClassifier

GARDEN = Registry('model', parent=MODELS, scope='conversion_garden')


@GARDEN.register_module()
class ConversionClassifier(ImageClassifier):
    pass
"""


def config(model, scope='mmseg', optim_wrapper=None, **others):
    optim_wrapper = (
        dict(type='OptimWrapper', optimizer=OPTIMIZER) if optim_wrapper is None else optim_wrapper
    )
    return Config(dict(default_scope=scope, model=model, optim_wrapper=optim_wrapper, **others))


def installed(host, name):
    """A config that a host comes with."""
    root = Path(importlib.util.find_spec(host).origin).parent / '.mim' / 'configs'
    return Config.fromfile(str(next(iter(sorted(root.glob(name))))))


@MODELS.register_module()
class ConversionHead(FCNHead):
    """A user's own head."""


@MODELS.register_module()
class ConversionPlain(nn.Module):
    """A module without a loss."""


@MODELS.register_module()
class ConversionTrained(nn.Sequential):
    """A backbone that would fetch weights while it is built, as timm's do."""

    def __init__(self, pretrained=False, checkpoint=None):
        assert not pretrained and checkpoint is None, 'no weights here'
        super().__init__(nn.Conv2d(3, 8, 1))


@MODELS.register_module()
class ConversionHost(BaseModel):
    """A model of a backbone and a head, with no place for a neck."""

    def __init__(self, backbone, decode_head, data_preprocessor=None):
        super().__init__(data_preprocessor)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        raise NotImplementedError


@MODELS.register_module()
class ConversionLoss(ConversionHost):
    """One with a loss."""

    def loss(self, inputs, data_samples):
        raise NotImplementedError


@MODELS.register_module()
class ConversionChild(ConversionHost):
    """One whose constructor hands everything on."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


def test_segmentor():
    conversion = convert(config(segmentor_config()), **PAPER)
    assert conversion.overrides == dict(
        custom_imports=dict(imports=['afan_mm'], allow_failed_imports=False),
        custom_hooks=[dict(type='AFANHook')],
        optim_wrapper=dict(type='AFANOptimWrapper'),
        model=dict(
            neck=dict(type='AFANNeckWrapper', base=None, afan=AFAN),
            decode_head=dict(type='AFANDecodeHead', base='DepthwiseSeparableASPPHead', afan=AFAN),
        ),
    )
    assert [name for name, _ in conversion.choices] == [
        'model.neck',
        'model.decode_head',
    ] and conversion.left_out == []
    assert (
        conversion.choices[1][1]
        == "DepthwiseSeparableASPPHead stays; site: 'classifier', a site of the paper"
    )


def test_detector():
    conversion = convert(config(detector_config(), 'mmdet'), **PAPER)
    assert conversion.overrides['model'] == dict(
        neck=dict(type='AFANNeckWrapper', base='FPN', afan=AFAN),
        roi_head=dict(type='AFANRoIHead', base='StandardRoIHead', afan=AFAN),
    )
    assert [name for name, _ in conversion.choices] == ['model.neck', 'model.roi_head']


@pytest.mark.parametrize('task', ['segmentor', 'detector'])
def test_converted_is_the_config_written_by_hand(task):
    model, scope = (
        (segmentor_config(), 'mmseg') if task == 'segmentor' else (detector_config(), 'mmdet')
    )
    new = converted(config(model, scope), **PAPER)
    assert new.model == with_afan(model, neck=AFAN, head=AFAN)
    assert new.optim_wrapper == dict(type='AFANOptimWrapper', optimizer=OPTIMIZER)


def test_stock_config_is_left_alone():
    cfg = config(
        segmentor_config(),
        custom_hooks=[dict(type='EMAHook')],
        custom_imports=dict(imports=['mmseg']),
    )
    before = copy.deepcopy(cfg._cfg_dict)
    conversion = convert(cfg, **PAPER)
    new = converted(cfg, **PAPER)
    new.model.backbone.depth = 50
    assert cfg._cfg_dict == before and 'afan' in conversion.overrides['model']['neck']


@pytest.mark.parametrize('task', ['segmentor', 'detector'])
def test_converted_model_trains_at_both_sites(task):
    model, scope, batch = (
        (segmentor_config(), 'mmseg', segmentation_batch())
        if task == 'segmentor'
        else (detector_config(), 'mmdet', detection_batch())
    )
    new = converted(config(model, scope), **PAPER)
    model = build(new.model)
    wrapper = build_optim_wrapper(model, new.optim_wrapper)
    wrapper.health.due = True
    wrapper.initialize_count_status(model, 0, 10)
    model.train_step(batch, wrapper)
    sites = {
        key.partition('/')[0]
        for key, value in wrapper.health.report().items()
        if key.endswith('delta_norm') and value > 0
    }
    assert sites == {'neck', 'decode_head' if task == 'segmentor' else 'roi_head'}


def test_what_is_not_stated_is_kept():
    others = dict(
        train_cfg=dict(max_iters=7), param_scheduler=[dict(type='PolyLR')], load_from='weights.pth'
    )
    wrapper = dict(
        type='AmpOptimWrapper',
        loss_scale='dynamic',
        optimizer=OPTIMIZER,
        clip_grad=dict(max_norm=1.0),
        paramwise_cfg=dict(custom_keys={'backbone.layer1': dict(lr_mult=0.1)}),
        constructor='DefaultOptimWrapperConstructor',
    )
    new = converted(config(segmentor_config(), optim_wrapper=wrapper, **others), **PAPER)
    assert new.optim_wrapper == dict(wrapper, type='AFANAmpOptimWrapper')
    assert {key: new[key] for key in others} == others


def test_hooks_and_imports_are_added_to():
    hook = dict(type='EMAHook', momentum=0.1)
    for imports, given, allowed in (
        ('garden', {}, False),
        (['garden'], dict(allow_failed_imports=False), False),
        (['garden'], dict(allow_failed_imports=True), True),
    ):
        cfg = config(
            segmentor_config(),
            custom_hooks=[hook],
            custom_imports=dict(given, imports=imports),
        )
        overrides = convert(cfg, **PAPER).overrides
        assert overrides['custom_hooks'] == [hook, dict(type='AFANHook')]
        assert overrides['custom_imports'] == dict(
            imports=['garden', 'afan_mm'], allow_failed_imports=allowed
        )


@pytest.mark.parametrize('kind', ['AFANHook', AFANHook])
def test_a_baseline_that_has_the_hook_gets_no_second(kind):
    hooks = [dict(type=kind, interval=10)]
    cfg = config(
        segmentor_config(),
        custom_hooks=hooks,
        custom_imports=dict(imports=['afan_mm'], allow_failed_imports=False),
    )
    overrides = convert(cfg, **PAPER).overrides
    assert overrides['custom_hooks'] == hooks and overrides['custom_imports']['imports'] == [
        'afan_mm'
    ]


def test_optim_wrapper_without_a_type():
    assert convert(
        config(segmentor_config(), optim_wrapper=dict(optimizer=OPTIMIZER)), preset='paper'
    ).overrides['optim_wrapper'] == dict(type='AFANOptimWrapper')


def test_settings_of_one_component():
    overrides = convert(
        config(segmentor_config()),
        preset='paper',
        num_strengths=1,
        neck=dict(epsilon=0.1, reuse_proposals=False),
        head=dict(epsilon=0.2, num_strengths=4),
        optim_wrapper=dict(clean_weight=0.7),
    ).overrides
    assert overrides['model']['neck']['afan'] == dict(
        num_strengths=1, epsilon=0.1, reuse_proposals=False
    )
    assert overrides['model']['decode_head']['afan'] == dict(num_strengths=4, epsilon=0.2)
    assert overrides['optim_wrapper'] == dict(type='AFANOptimWrapper', clean_weight=0.7)


@pytest.mark.parametrize(
    'names,neck,head',
    [
        ('neck', {}, None),
        ('output', dict(site='output'), None),
        ('head', None, {}),
        ('decode_head.bottleneck', None, dict(site='bottleneck')),
        ('decode_head.bottleneck,head', None, [dict(site='bottleneck'), {}]),
        ('backbone.layer2', dict(site='backbone.layer2'), None),
        ('backbone.layer2,neck,head', [dict(site='backbone.layer2'), {}], {}),
    ],
)
def test_sites_that_are_asked_for(names, neck, head):
    stated = convert(config(segmentor_config()), names.split(','), preset=None).overrides['model']
    expected = {
        key: afan for key, afan in (('neck', neck), ('decode_head', head)) if afan is not None
    }
    assert {key: part['afan'] for key, part in stated.items()} == expected


def test_roi_site_that_is_asked_for():
    stated = convert(config(detector_config(), 'mmdet'), ['roi_head.map'], preset=None).overrides[
        'model'
    ]
    assert stated == dict(
        roi_head=dict(type='AFANRoIHead', base='StandardRoIHead', afan=dict(site='map'))
    )


@pytest.mark.parametrize(
    'in_index,out_indices,levels',
    [
        (3, (0, 1, 2, 3), None),
        (-1, (0, 1, 2, 3), None),
        ([0, 1, 2, 3], (0, 1, 2, 3), None),
        (3, None, None),  # a ResNet returns four levels where the config does not say
        (2, (0, 1, 2, 3), (2,)),
        ([0, 2], (0, 1, 2, 3), (2,)),
        (0, (0, 1, 2), (0,)),
    ],
)
def test_level_that_the_head_reads(in_index, out_indices, levels):
    model = segmentor_config()
    model.decode_head.in_index = in_index
    model.backbone.pop('out_indices')
    if out_indices is not None:
        model.backbone.out_indices = out_indices
    conversion = convert(config(model), ['neck'], preset=None)
    assert conversion.overrides['model']['neck']['afan'] == (
        {} if levels is None else dict(levels=levels)
    )
    reason = (
        "the backbone's last layer"
        if levels is None
        else f'level {levels[0]} of the backbone, the last that the head reads'
    )
    assert reason in conversion.choices[0][1]


def test_level_that_the_neck_reads():
    model = detector_config()
    model.neck.update(start_level=0, end_level=2)
    conversion = convert(config(model, 'mmdet'), ['neck'], preset=None)
    assert conversion.overrides['model']['neck']['afan'] == dict(levels=(2,))
    assert 'level 2 of the backbone, the last that the neck reads' in conversion.choices[0][1]


def test_a_neck_that_is_none_is_replaced():
    model = segmentor_config()
    model.neck = None
    assert converted(config(model), **PAPER).model.neck == dict(
        type='AFANNeckWrapper', base=None, afan=AFAN
    )


def test_list_of_decode_heads():
    cfg = installed('mmseg', 'ocrnet/ocrnet_hr18_4xb2-40k_*.py')
    conversion = convert(cfg, **PAPER)
    first, last = conversion.overrides['model']['decode_head']
    assert first == cfg.model.decode_head[0]
    assert last == dict(cfg.model.decode_head[1], type='AFANDecodeHead', base='OCRHead', afan=AFAN)
    assert conversion.choices[1] == (
        'model.decode_head[1]',
        "the last of the heads; OCRHead stays; site: 'classifier', a site of the paper",
    )


def test_list_of_necks():
    cfg = installed('mmdet', 'libra_rcnn/libra-faster-rcnn_r50_*.py')
    conversion = convert(cfg, **PAPER)
    first, last = conversion.overrides['model']['neck']
    assert (
        first == dict(cfg.model.neck[0], type='AFANNeckWrapper', base='FPN', afan=AFAN)
        and last == cfg.model.neck[1]
    )
    assert [name for name, _ in conversion.choices] == ['model.neck[0]', 'model.roi_head']


def test_model_inside_another():
    cfg = installed('mmdet', 'soft_teacher/*180k*0.1-coco.py')
    conversion = convert(cfg, **PAPER)
    assert conversion.overrides['model'] == dict(
        detector=dict(
            neck=dict(type='AFANNeckWrapper', base='FPN', afan=AFAN),
            roi_head=dict(type='AFANRoIHead', base='StandardRoIHead', afan=AFAN),
        )
    )
    assert [name for name, _ in conversion.choices] == [
        'model.detector.neck',
        'model.detector.roi_head',
    ]
    hooks = converted(cfg, **PAPER).custom_hooks
    assert [hook.type for hook in hooks] == ['MeanTeacherHook', 'AFANHook']


def test_cascade_has_a_site_in_every_stage():
    conversion = convert(
        installed('mmdet', 'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'), **PAPER
    )
    assert conversion.overrides['model']['roi_head'] == dict(
        type='AFANRoIHead', base='CascadeRoIHead', afan=AFAN
    )
    assert "'vector' of every stage" in conversion.choices[1][1]


def test_one_stage_detector_has_the_neck_alone():
    conversion = convert(installed('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco.py'), **PAPER)
    assert list(conversion.overrides['model']) == ['neck']
    assert conversion.left_out == [
        ('model.bbox_head', 'RetinaHead is neither a decode head nor a RoI head, nor a classifier')
    ]


def test_own_head_fits_by_its_class():
    model = segmentor_config()
    model.decode_head = dict(model.auxiliary_head, type='ConversionHead')
    assert (
        convert(config(model), preset='paper').overrides['model']['decode_head']['base']
        == 'ConversionHead'
    )
    model.decode_head.type = 'ConversionPlain'
    conversion = convert(config(model), preset='paper')
    assert list(conversion.overrides['model']) == ['neck']
    assert "'ConversionPlain'" in dict(conversion.left_out)['model.decode_head']


@pytest.mark.parametrize('host', ['ConversionHost', 'ConversionChild'])
def test_host_without_a_place_for_a_neck(host):
    model = segmentor_config()
    cfg = config(dict(type=host, backbone=model.backbone, decode_head=model.decode_head))
    conversion = convert(cfg, preset='paper')
    assert list(conversion.overrides['model']) == ['decode_head']
    reason = f'{host} takes no neck, and has no method loss, which is the tail of its sites'
    assert conversion.left_out == [('model.neck', reason)]
    with pytest.raises(ConversionError, match=f'no site in model.neck: {reason}'):
        convert(cfg, ['neck'])


def test_sites_on_paths_of_a_host_without_a_place_for_a_neck():
    model = segmentor_config()
    stock = dict(type='ConversionLoss', backbone=model.backbone, decode_head=model.decode_head)
    cfg = config(stock)
    head = dict(type='AFANDecodeHead', base=stock['decode_head'].type, afan=AFAN)
    own = dict(type='AFANModel', base='ConversionLoss')
    overrides = convert(cfg, **PAPER).overrides['model']
    by_default = dict(own, afan=dict(AFAN, site='backbone', levels=(-1,)), decode_head=head)
    assert overrides == by_default
    overrides = convert(cfg, ['backbone.layer3'], **PAPER).overrides['model']
    assert overrides == dict(own, afan=dict(AFAN, site='backbone.layer3'))
    sites = ['backbone.layer3', 'backbone.layer4']
    overrides = convert(cfg, sites, **PAPER).overrides['model']
    assert overrides == dict(own, afan=[dict(AFAN, site=site) for site in sites])
    with pytest.raises(ConversionError, match='ask for the path of a module, in one of backbone'):
        convert(cfg, ['output'])
    with pytest.raises(ConversionError, match='sites must be modules of the host'):
        convert(cfg, ['backbone.layer9'])


@pytest.mark.parametrize('weights', [dict(pretrained=True), dict(checkpoint='https://weights')])
def test_path_is_checked_without_weights(weights):
    model = segmentor_config()
    model.backbone = dict(type='ConversionTrained', **weights)
    new = converted(config(model), ['backbone.0'], preset=None)
    assert new.model.neck.afan == dict(site='backbone.0') and new.model.backbone == model.backbone
    with pytest.raises(ConversionError, match="got 'backbone.1'; .* a ConversionTrained, has 0$"):
        convert(config(model), ['backbone.1'])


@pytest.mark.parametrize('kind', ['mmpretrain.ImageClassifier', 'ConversionClassifier'])
def test_settings_of_a_classifier_in_a_scope_of_its_own(kind, tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain')
    (tmp_path / 'conversion_garden.py').write_text(GARDEN)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = config(
        dict(type=kind, backbone=dict(type='mmpretrain.ResNet', depth=18)),
        'conversion_garden',
        train_dataloader=dict(dataset=dict(type='mmpretrain.CIFAR10')),
    )
    assert 'entry cls_cifar, for CIFAR10' in convert(cfg, ['neck'], 'paper').notes[0]


def test_scope_in_a_type():
    model = segmentor_config()
    model.decode_head.type = f'mmseg.{model.decode_head.type}'
    assert (
        convert(config(model), preset='paper').overrides['model']['decode_head']['base']
        == 'mmseg.DepthwiseSeparableASPPHead'
    )
    assert MMSEG_MODELS.get('DepthwiseSeparableASPPHead') is not None


REFUSED = {
    'no model': (dict(model=None), 'model must be a dict with a type, but got None'),
    'unknown model': (
        dict(model=dict(type='EncoderDecodr', backbone=dict())),
        'model.type must be a registered model, but got '
        "'EncoderDecodr'.*did you mean 'EncoderDecoder'",
    ),
    'no parts': (
        dict(model=dict(type='EncoderDecoder')),
        'model is a EncoderDecoder with none of backbone',
    ),
    'unknown scope': (
        dict(default_scope='mmgone'),
        "default_scope of the config is 'mmgone', which cannot be imported",
    ),
    'no name': (
        dict(model=dict(type=5, backbone=dict())),
        'model.type must be a registered name or a class, but got 5',
    ),
    'trains nothing': (dict(optim_wrapper=None), 'has no optim_wrapper'),
    'other wrapper': (
        dict(optim_wrapper=dict(type='ApexOptimWrapper')),
        'must be OptimWrapper or AmpOptimWrapper.*got ApexOptimWrapper',
    ),
    'several wrappers': (
        dict(optim_wrapper=dict(one=dict(optimizer=OPTIMIZER), two=dict(optimizer=OPTIMIZER))),
        'one optimizer, but optim_wrapper has several: one, two',
    ),
    'wrapper of A-FAN': (
        dict(optim_wrapper=dict(type='AFANOptimWrapper')),
        "A-FAN config already: optim_wrapper=dict.type='AFANOptim",
    ),
    'component of A-FAN': (
        dict(model=with_afan(segmentor_config(), head={})),
        "already: model.decode_head=dict.type='AFANDecodeHead'",
    ),
}


@pytest.mark.parametrize('case', sorted(REFUSED))
def test_refused_config(case):
    changes, message = REFUSED[case]
    cfg = config(segmentor_config())
    for key, value in changes.items():
        cfg[key] = value
    with pytest.raises(ConversionError, match=message):
        convert(cfg)


@pytest.mark.parametrize(
    'sites,settings,message',
    [
        ('', {}, "sites must be 'neck', 'output', 'head'.*got ''"),
        ('nek', {}, "got 'nek' for a EncoderDecoder with backbone, decode_head, auxiliary_head$"),
        ('backbon.layer2', {}, "got 'backbon.layer2'"),
        ('backbone.layer7', {}, "got 'backbone.layer7'; model.backbone, a .*, has .*layer4"),
        ('decode_head.bottlenek', {}, "site must be one of .*but got 'bottlenek'"),
        ('roi_head.map', {}, "got 'roi_head.map' for a EncoderDecoder with backbone, "),
        ('test_cfg.mode', {}, "got 'test_cfg.mode' for a EncoderDecoder with backbone, "),
        ('data_preprocessor.mean', {}, "got 'data_preprocessor.mean' for a EncoderDecoder with"),
        ('neck,neck', {}, 'different ones'),
        ('head,head', {}, 'different ones'),
        ('neck', dict(epsilon=-1), 'epsilon must be a finite number >= 0'),
        ('neck', dict(strength=1), "afan has no setting .'strength'"),
        ('head', dict(moments='mean'), 'moments must be one of'),
    ],
)
def test_refused_arguments(sites, settings, message):
    with pytest.raises(ConversionError, match=message):
        convert(config(segmentor_config()), sites.split(','), **settings)


def test_site_that_is_in_no_module():
    model = detector_config()
    message = "got 'train_cfg.rcnn' for a FasterRCNN with backbone, neck, rpn_head, roi_head$"
    with pytest.raises(ConversionError, match=message):
        convert(config(model, 'mmdet'), ['train_cfg.rcnn'])
    model.neck = [model.neck]
    assert convert(config(model, 'mmdet'), ['neck.0.lateral_convs'], preset=None)
    with pytest.raises(ConversionError, match="got 'neck.1.fpn_convs'; model.neck is a list of 1"):
        convert(config(model, 'mmdet'), ['neck.1.fpn_convs'])


def test_nothing_fits():
    model = dict(
        type='ConversionHost',
        backbone=dict(type='ResNet', depth=18),
        decode_head=dict(type='ConversionPlain'),
    )
    with pytest.raises(
        ConversionError,
        match='nothing in the config fits: model.neck: ConversionHost takes no neck.*; '
        "model.decode_head: .*'ConversionPlain'",
    ):
        convert(config(model), preset='paper')


@pytest.mark.parametrize('host', ('mmseg', 'mmdet'))
def test_recommended_preset_perturbs_late_sites_in_one_pass(host):
    """Both sites take part in one adversarial pass; without perturbation the step is stock's."""
    stock, batch = (
        (segmentor_config(), segmentation_batch())
        if host == 'mmseg'
        else (detector_config(), detection_batch())
    )
    cfg = converted(config(stock, host), ['neck', 'head'], 'recommended', detach=False)
    assert cfg.optim_wrapper.clean_weight == 'complement'
    head = cfg.model.get('decode_head') or cfg.model.roi_head
    for site in (cfg.model.neck.afan, head.afan):
        assert site.joint and site.adv_weight == 0.5 and site.moments is None
        site.perturbation = 'none'
        site.strengths = 'linspace'
    model, plain = build(cfg.model), build(stock)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    wrapper.health.due = True
    ours = gradients(model, batch, wrapper)
    assert {key.split('/')[0] for key in wrapper.health.report()} == {'neck', head_name(host)}
    assert wrapper.clean_weight == 0.5
    if host == 'mmseg':  # a detector's heads before the RoIs are in the clean loss alone
        for name, expected in gradients(plain, batch, build_optim_wrapper(plain, STOCK)).items():
            if 'decode_head' in name:
                torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-5)


def head_name(host):
    return 'decode_head' if host == 'mmseg' else 'roi_head'
