"""What AFANHook and the components refuse, in real Runners on a tiny segmentor: before training,
and saying what to write instead.
"""

import re

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmseg.models.segmentors import EncoderDecoder

from afan_mm import AFANHook
from afan_mm.utils.errors import UsageError
from support.runs import NECK, Trace, afan_model, train
from support.tiny import build, detector_config, segmentor_config, with_afan
from support.versions import MESSAGE_STARTS


class MuteHost(BaseModel):
    """A host that computes its losses in forward."""

    def __init__(self, neck, **kwargs):
        super().__init__()
        self.backbone, self.neck = torch.nn.Conv2d(3, 4, 1), MODELS.build(neck)

    def forward(self, inputs, data_samples=None, mode='loss'):
        return dict(loss=self.neck([self.backbone(torch.stack(inputs).float())])[0].square().mean())


STOPPED = dict(
    stock_wrapper=(
        dict(),
        'OptimWrapper',
        RuntimeError,
        r"A-FAN sites \(neck\), .* is OptimWrapper.*optim_wrapper=dict\(type='AFANOptimWrapper'",
    ),
    no_sites=(
        None,
        'AFANOptimWrapper',
        RuntimeError,
        'is AFANOptimWrapper, but the model has no A-FAN site. Use AFANNeckWrapper',
    ),
    same_names=(
        dict(neck=dict(NECK, name='here'), head=dict(name='here')),
        'AFANOptimWrapper',
        ValueError,
        r"\['neck', 'decode_head'\] are all named 'here'; write afan=dict\(name=",
    ),
    joint_sites_that_differ=(
        dict(neck=dict(NECK, joint=True), head=dict(name='here', joint=True, num_strengths=1)),
        'AFANOptimWrapper',
        ValueError,
        "num_strengths must be the same .* joint=True, but got 2 at 'neck', 1 at 'here'",
    ),
    levels_too_high=(
        dict(neck=dict(NECK, levels=(0, 4))),
        'AFANOptimWrapper',
        ValueError,
        r'levels must lie in \[-4, 3\] for a feature of 4 levels, but got \(0, 4\)',
    ),
    levels_twice=(
        dict(neck=dict(NECK, levels=(3, -1))),
        'AFANOptimWrapper',
        ValueError,
        r'different levels, but got \(3, -1\)',
    ),
    no_such_module=(
        dict(neck=dict(NECK, site='backbone.layer5')),
        'AFANOptimWrapper',
        ValueError,
        "path of a module of EncoderDecoder, but got 'backbone.layer5'; backbone has "
        'backbone.stem, .*backbone.layer4',
    ),
    same_sites=(
        dict(neck=[dict(NECK, site='backbone.layer1'), dict(NECK, site='backbone.layer1')]),
        'AFANOptimWrapper',
        ValueError,
        r"\['neck', 'neck'\] are all named 'backbone.layer1'",
    ),
    no_proposals=(
        dict(neck=dict(NECK, reuse_proposals=True)),
        'AFANOptimWrapper',
        ValueError,
        'reuse_proposals needs a two-stage detector with rpn_head and roi_head, but got '
        'EncoderDecoder',
    ),
    mute=(
        dict(type=MuteHost),
        'AFANOptimWrapper',
        ValueError,
        'needs a host with a method loss, but MuteHost has none',
    ),
)


@pytest.mark.parametrize('case', STOPPED)
def test_run_is_stopped_before_its_first_iteration(case, tmp_path):
    changes, optim, kind, message = STOPPED[case]
    model = build(segmentor_config()) if changes is None else afan_model(**changes)
    trace = Trace()
    with pytest.raises(kind, match=message):
        train(model, tmp_path, optim=optim, trace=trace)
    assert trace.started == 0


def test_levels_of_a_neck_output_are_checked(tmp_path):
    neck = dict(
        type='AFANNeckWrapper',
        base='FPN',
        in_channels=[8, 16, 32, 64],
        out_channels=8,
        num_outs=4,
        afan=dict(NECK, site='output', levels=(4,)),
    )
    trace = Trace()
    with pytest.raises(ValueError, match=r'levels must lie in \[-4, 3\]'):
        train(build(dict(segmentor_config(), neck=neck)), tmp_path, trace=trace)
    assert trace.started == 0


def test_hook_left_in_a_stock_run(tmp_path):
    """The baseline of a config that inherits the hook trains, and reports nothing."""
    trace = train(build(segmentor_config()), tmp_path, max_iters=1, optim='OptimWrapper')
    assert trace.started == len(trace.losses) == 1 and trace.reports == [{}]


@pytest.mark.parametrize(
    'component, base, message',
    (
        (
            'AFANDecodeHead',
            'DepthwiseSeparableASPPHed',
            "got 'DepthwiseSeparableASPPHed'; did you mean 'DepthwiseSeparableASPPHead'",
        ),
        (
            'AFANDecodeHead',
            'Zzzzzz',
            "base must be the type of a registered model, but got 'Zzzzzz'",
        ),
        (
            'AFANDecodeHead',
            'ResNet',
            'base of AFANDecodeHead must be the type of a decode head with a method loss, but got '
            "'ResNet'",
        ),
        ('AFANDecodeHead', None, 'base of AFANDecodeHead must be .*, but got None'),
        (
            'AFANRoIHead',
            'RPNHead',
            'base of AFANRoIHead must be the type of a RoI head .*StandardRoIHead or '
            "CascadeRoIHead, but got 'RPNHead'",
        ),
        ('AFANNeckWrapper', 'FPM', "got 'FPM'; did you mean .*'FPN'"),
        (
            'AFANNeckWrapper',
            'AFANNeckWrapper',
            "base of AFANNeckWrapper must be .* but got 'AFANNeckWrapper'",
        ),
    ),
)
def test_wrong_base_fails_at_build(component, base, message):
    with pytest.raises(UsageError, match=f'{MESSAGE_STARTS}{component}: .*{message}'):
        MODELS.build(dict(type=component, base=base))


@pytest.mark.parametrize(
    'config, sites, message',
    (
        (
            segmentor_config,
            dict(head=dict(site='botleneck')),
            MESSAGE_STARTS
            + r"AFANDecodeHead of .*: site must be one of \['classifier', .*'bottleneck'.*got 'botleneck'",
        ),
        (
            segmentor_config,
            dict(neck=dict(site='middle')),
            "site must be 'input', 'output' or the path .* but got 'middle'",
        ),
        (
            segmentor_config,
            dict(neck=dict(levels=2)),
            'levels must be a list of integers, but got 2',
        ),
        (
            segmentor_config,
            dict(neck=dict(levels=())),
            r'levels must be a list of integers, but got \(\)',
        ),
        (
            detector_config,
            dict(head=dict(site='vectr')),
            r"site must be one of \('vector', 'map'\), but got 'vectr'",
        ),
        (
            detector_config,
            dict(head=dict(gamma=1)),
            r"AFANRoIHead: afan has no setting \['gamma'\]; it knows .*'epsilon'",
        ),
    ),
)
def test_wrong_site_fails_at_build(config, sites, message):
    with pytest.raises(ValueError, match=message):
        build(with_afan(config(), **sites))


@pytest.mark.parametrize(
    'wrong', (dict(interval=0), dict(interval=2.0), dict(warmup_iters=-1), dict(warmup_iters='5'))
)
def test_wrong_hook_argument(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(
        ValueError,
        match=f'{name} of AFANHook must be an integer >= .*but got {re.escape(repr(value))}',
    ):
        AFANHook(**wrong)


class PastTheSite(EncoderDecoder):
    """A segmentor whose loss does not use its neck."""

    def extract_feat(self, inputs):
        return self.backbone(inputs)


def test_site_that_the_loss_does_not_pass(tmp_path):
    """The run stops before anything is learnt."""
    model = afan_model(type=PastTheSite)
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(
        ValueError,
        match="PastTheSite computes its loss without passing the A-FAN site 'neck'; choose "
        'another site: .*backbone, neck',
    ):
        train(model, tmp_path)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize(
    'afan, message',
    (
        (
            dict(site='backbone'),
            "site must be 'input', 'output' or the path of a module of the host, such as "
            "'backbone.layer3', but got 'backbone'",
        ),
        (
            [dict(), 3],
            'AFANNeckWrapper: afan must be a dict of settings or a list of such, but got 3',
        ),
        (dict(reuse_proposals=1), 'reuse_proposals must be a bool, but got 1'),
    ),
)
def test_wrong_neck_settings_fail_at_build(afan, message):
    with pytest.raises((TypeError, ValueError), match=message):
        MODELS.build(dict(type='AFANNeckWrapper', base=None, afan=afan))
