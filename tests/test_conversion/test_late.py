"""``sites='late'``: which sites a stock config gets, and that they train together."""

import copy
import logging
import re
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn

from afan_mm import AFANSettings
from afan_mm.conversion import ConversionError, convert, converted, tail_share
from afan_mm.conversion.config_file import same
from afan_mm.conversion.host import find_host, in_scope
from afan_mm.conversion.late import late_sites
from afan_mm.conversion.trial_step import shapes_of, shrunk, small_model
from support.families import family_model
from support.paths import CONFIGS
from support.projects import write_project
from support.tiny import assert_identical, detector_config, random_streams, segmentor_config
from support.tools import load_tool
from support.versions import counts_operations

pytestmark = counts_operations

HAND_MADE = {
    'efficientnet_lite0/efficientnet-lite0_1xb64-156_cifar10-500-64x64': 'neck',
    'deeplabv3plus/deeplabv3plus_lite0-d16_1xb4-400_camvid15-160x120': 'neck decode_head',
    'deeplabv3plus/deeplabv3plus_lite0-frozen_1xb4-1600_camvid30-160x120': 'neck decode_head',
    'faster_rcnn/faster-rcnn_lite0-frozen_fpn_1xb4-300_bccd20-240x180': 'neck roi_head',
}
OPTIONS = ('site', 'levels')


def config(model, scope='mmseg', **others):
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    return Config(dict(default_scope=scope, model=model, optim_wrapper=wrapper, **others))


def stated(afan):
    """Sites as they train, whatever their names and whether a default is stated."""
    return [
        (
            {key: each[key] for key in OPTIONS if key in each},
            AFANSettings.from_config(
                {key: value for key, value in each.items() if key not in ('name', *OPTIONS)}
            ),
        )
        for each in (afan if isinstance(afan, list) else [afan])
    ]


@pytest.mark.parametrize('name', HAND_MADE)
def test_what_was_written_by_hand(name):
    """The configs of the study."""
    stock = Config.fromfile(str(CONFIGS / f'{name}.py'))
    hand = Config.fromfile(str((CONFIGS / name).parent / f'afan_{(CONFIGS / name).name}_late.py'))
    ours = converted(stock)
    assert ours._cfg_dict == converted(stock, 'late', 'recommended')._cfg_dict
    for part in HAND_MADE[name].split():
        found, expected = dict(ours.model[part]), dict(hand.model[part])
        assert stated(found.pop('afan')) == stated(expected.pop('afan'))
        assert found == expected
    assert ours.optim_wrapper == hand.optim_wrapper
    changed = [key for key in ours.model if ours.model[key] != stock.model.get(key)]
    assert sorted(changed) == sorted(HAND_MADE[name].split())


def sites_of(conversion):
    """By component, each site with its levels."""
    parts = conversion.overrides['model']
    return {
        key: [
            (each.get('site', ''), each.get('levels'))
            for each in (part['afan'] if isinstance(part['afan'], list) else [part['afan']])
        ]
        for key, part in parts.items()
    }


def test_two_stage_detector():
    """All levels of the neck's output: the RPN reads every one. The sites of the RoI head are in
    the order in which they are passed.
    """
    cfg = config(detector_config(), 'mmdet')
    before, streams = copy.deepcopy(cfg._cfg_dict), random_streams()
    conversion = convert(cfg, 'late', 'recommended')
    assert sites_of(conversion) == dict(
        neck=[('output', (0, 1, 2, 3, 4))], roi_head=[('map', None), ('', None)]
    )
    neck, head = (reason for _, reason in conversion.choices)
    assert neck.startswith("FPN stays; site: 'output', tail share 0.") and head.endswith(
        "and 'vector', tail share under 0.005"
    )
    share = float(re.search(r"'output', tail share (0\.\d\d)", neck).group(1))
    assert 0.1 < share < 0.45 and conversion.notes == [
        "Settings: preset 'recommended', the same for every task and data set.",
        'A detector whose backbone trains lost its hardest class by it in the study: train stock '
        'beside it, and compare them class by class.',
        'Late sites have a tail share of at most 0.45. Measured on two images of 224 x 224.',
        f'A step has about {1 + share:.2f} times the operations of a stock step whose every layer '
        'trains.',
    ]
    # nothing of the trial is left
    assert cfg._cfg_dict == before and logging.root.manager.disable == 0
    assert_identical(
        {key: torch.as_tensor(value) for key, value in random_streams().items()},
        {key: torch.as_tensor(value) for key, value in streams.items()},
    )


def test_largest_tail_share():
    """The sites come from the end: less is one site, nothing is the last one."""
    cfg = config(segmentor_config())
    shares = {}
    for most in (1, 0.45, 1e-9):
        conversion = convert(cfg, ['late'], 'recommended', max_tail_share=most)
        shares[most] = sites_of(conversion)
    assert shares[1] == shares[0.45] == dict(neck=[('', None)], decode_head=[('', None)])
    assert shares[1e-9] == dict(decode_head=[('', None)])
    assert conversion.notes[-2] == (
        'Late sites have a tail share of at most 1e-09, which none has, so this is the last one; '
        'that of neck, before them, is 0.03. Measured on two images of 32 x 32.'
    )


def test_one_stage_detector():
    """Its heads are most of a step, and there is no place for a site in them."""
    model = family_model('mmdet/retinanet/retinanet_r50_fpn_1x_coco.py')
    conversion = convert(config(model, 'mmdet'), 'late', 'recommended')
    assert sites_of(conversion) == dict(neck=[('output', (0, 1, 2, 3, 4))])


def test_a_detector_that_fails_on_masks():
    """The assigner of RTMDet takes masks where there are some, of another kind than loaded ones."""
    model = get_config('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py').model
    assert sites_of(convert(config(model, 'mmdet'))) == dict(neck=[('output', (0, 1, 2))])


def test_a_preprocessor_that_asks_for_the_iteration():
    """That of YOLOX, which resizes every tenth batch; the message hub is left as it was."""
    cfg = config(detector_config(), 'mmdet')
    resizing = dict(type='BatchSyncRandomResize', random_size_range=(32, 64))
    preprocessor = dict(type='DetDataPreprocessor', batch_augments=[resizing])
    cfg.model.data_preprocessor = preprocessor
    MessageHub.get_instance('no_run')  # the current one, without an iteration
    assert sites_of(convert(cfg))['neck'] == [('output', (0, 1, 2, 3, 4))]
    assert MessageHub.get_current_instance().runtime_info == {}


@MODELS.register_module()
class LateFailing(nn.Module):
    """A backbone that needs what is not there."""

    def forward(self, images):
        raise ImportError('please install the package it needs\nand more')


def test_refused(monkeypatch):
    cfg = config(segmentor_config())
    for sites, settings, message in (
        ('late,neck', {}, "sites must be 'late' alone or other ones, but got late, neck"),
        ('neck', dict(max_tail_share=0.3), "is for sites='late', but got 0.3 without it"),
        (None, dict(max_tail_share=2), r'max_tail_share must be a finite number in \(0, 1\]'),
        (None, dict(preset='paper', max_tail_share=0.3), "is for sites='late', but got 0.3"),
        (
            None,
            dict(num_strengths=2),
            'sum to less than 1, .* is 1; lower adv_weight or num_strengths, or',
        ),
        (None, dict(epsilon=-1), 'epsilon must be a finite number >= 0, but got -1'),
    ):
        with pytest.raises(ConversionError, match=message):
            convert(cfg, sites, **settings)
    host = find_host_of(cfg)
    with in_scope('mmseg'):
        assert late_sites(config(cfg.model, 'mmyolo'), host, 0.45)[0][-1].name == 'head'
    with pytest.raises(ConversionError, match='of mmdet, .* got LateFailing. Write sites, such as'):
        late_sites(config(cfg.model, None), host._replace(cls=LateFailing), 0.45)
    failing = copy.deepcopy(cfg)
    failing.model.backbone = dict(type='LateFailing')
    with pytest.raises(ConversionError) as refusal:
        convert(failing)
    assert str(refusal.value) == (
        'late sites are found by a stock step on random images, which fails here: ImportError: '
        "please install the package it needs. Write sites, such as neck,head, or preset 'paper', "
        'which needs no step'
    )
    assert 'neck' in convert(failing, preset='paper').overrides['model']
    monkeypatch.setattr(tail_share, 'FlopCounterMode', None)
    with pytest.raises(ConversionError, match='has no torch.utils.flop_counter; torch 2.1 has'):
        convert(cfg)


def find_host_of(cfg):
    with in_scope(cfg.default_scope):
        return find_host(cfg.model)


def test_shrunk_images():
    """Sides keep their ratio; RoIs become fewer as pixels do; a small image stays as it is."""
    assert shrunk((800, 1333)) == (160, 288) and shrunk((120, 160)) == (120, 160)
    pipeline = [dict(type='Resize', scale=(1600, 800))]
    model = detector_config()
    model.train_cfg.rcnn.sampler.num = 512
    model.backbone.with_cp = True
    cfg = config(model, 'mmdet', train_dataloader=dict(dataset=dict(pipeline=pipeline)))
    assert shapes_of(cfg) == ((160, 320), (800, 1600))
    small = small_model(cfg, find_host_of(cfg), (200, 400))
    assert small.train_cfg.rcnn.sampler.num == 32 and not small.backbone.with_cp
    assert model.train_cfg.rcnn.sampler.num == 512 and model.backbone.with_cp


def test_command_and_a_run(tmp_path, monkeypatch, capsys):
    """A classifier: the config that the command writes trains at its three sites in one pass, and
    the command says what it wrote.
    """
    stock, path = write_project('mmpretrain', tmp_path / 'project'), tmp_path / 'afan.py'
    arguments = f'{stock} --out {path} --max-tail-share 0.5'
    monkeypatch.setattr(sys, 'argv', ['convert_config.py', *arguments.split()])
    load_tool('convert_config').main()
    text = ' '.join(path.read_text().replace('#', '').split())
    shares = re.findall(r"'([\w.]+)', tail share ([\w.]+ ?0?\.?\d*)", text)
    assert [name for name, _ in shares] == ['backbone.layer3', 'backbone.layer4', 'output'], text
    wrote, *told, others = capsys.readouterr().out.splitlines()
    assert wrote == f'wrote {path}' and others.startswith('Others: --sites, --preset paper')
    assert told[-2].startswith('Late sites have a tail share of at most 0.5')
    assert len(told) == 4 and 'times the operations of a stock step' in told[-1]
    assert all(sentence in text for sentence in told)
    cfg = Config.fromfile(str(path))
    expected = converted(Config.fromfile(str(stock)), max_tail_share=0.5)
    assert same(cfg._cfg_dict, expected._cfg_dict)
    cfg.custom_hooks[-1].interval = 1
    cfg.work_dir, cfg.experiment_name = str(tmp_path / 'run'), 'late'
    runner = Runner.from_cfg(cfg)
    runner.train()
    scalars = runner.message_hub.log_scalars
    for site in ('backbone.layer3', 'backbone.layer4', 'neck'):
        found = [
            value.current()
            for key, value in scalars.items()
            if key.startswith(f'train/afan/{site}/') and key.endswith('delta_norm')
        ]
        assert found and min(found) > 0, (site, list(scalars))
