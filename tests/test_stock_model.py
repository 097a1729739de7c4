"""Stock models as a CPU without weights can run them."""

import random

import numpy as np
import torch
from mmengine.model import PretrainedInit
from mmengine.registry import DefaultScope

from afan_mm.stock_model import build, resize, without_weights
from support.tiny import assert_identical, segmentor_config


def test_no_file_is_named():
    weights = dict(type='Pretrained', checkpoint='a.pth')
    normal = dict(type='Normal', layer='Conv2d')
    of_a_class = dict(type=PretrainedInit, checkpoint='d.pth')
    model = dict(
        pretrained='b.pth',
        head=dict(init_cfg=of_a_class),
        neck=dict(init_cfg=[normal, weights]),
        backbone=dict(type='ResNet', init_cfg=dict(weights), pretrained=True),
        teachers=[dict(teacher_ckpt='c.pth', init_cfg=normal)],
    )
    without_weights(model)
    assert model == dict(
        pretrained=None,
        head=dict(init_cfg=None),
        neck=dict(init_cfg=[normal]),
        backbone=dict(type='ResNet', init_cfg=None, pretrained=False),
        teachers=[dict(teacher_ckpt=None, init_cfg=normal)],
    )


def test_nothing_pads_to_another_size():
    pad, other = dict(type='BatchFixedSizePad', size=(1024, 1024)), dict(type='BatchSyncRandom')
    model = dict(
        data_preprocessor=dict(size=(512, 512), batch_augments=[pad, other]),
        detector=dict(data_preprocessor=dict(batch_augments=None)),
        teacher=dict(data_preprocessor=None),
        student=dict(data_preprocessor=dict(size=None, size_divisor=32)),
    )
    resize(model, (64, 96))
    assert model == dict(
        data_preprocessor=dict(size=(64, 96), batch_augments=[other]),
        detector=dict(data_preprocessor=dict(batch_augments=[])),
        teacher=dict(data_preprocessor=None),
        student=dict(data_preprocessor=dict(size=None, size_divisor=32)),  # takes one of the two
    )


def test_the_same_weights_each_time():
    with DefaultScope.overwrite_default_scope('mmseg'):
        first = build(segmentor_config())
        drawn = random.random(), np.random.rand(), float(torch.rand(()))
        second = build(segmentor_config())
    assert first.training and drawn == (random.random(), np.random.rand(), float(torch.rand(())))
    assert_identical(first.state_dict(), second.state_dict())
