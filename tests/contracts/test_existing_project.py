"""A project of somebody else: its config is converted, trained and tested with the stock tools, and
its checkpoint goes back.
"""

import importlib
import importlib.util
import json
import os
import subprocess
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint

import afan_mm
from support.fast_python import python
from support.paths import TOOLS
from support.tiny import assert_identical, segmentation_batch
from support.versions import older

HOST_TOOLS = Path(importlib.util.find_spec('mmseg').origin).parent / '.mim' / 'tools'

FILES = {
    'garden/__init__.py': 'from . import hooks, leaf_head  # noqa: F401  registers them\n',
    'garden/hooks.py': '''
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class GardenHook(Hook):
    """Says that it ran."""

    def after_train(self, runner):
        runner.logger.info(f'the garden grew for {runner.iter} iterations')
''',
    'garden/leaf_head.py': '''
import torch.nn as nn
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS


@MODELS.register_module()
class LeafHead(BaseDecodeHead):
    """Two convolutions of different size, added."""

    def __init__(self, kernel_sizes=(1, 3), **kwargs):
        super().__init__(**kwargs)
        self.leaves = nn.ModuleList(
            ConvModule(self.in_channels, self.channels, size, padding=size // 2, norm_cfg=self.norm_cfg) for size in kernel_sizes)

    def forward(self, inputs):
        x = self._transform_inputs(inputs)
        return self.cls_seg(sum(leaf(x) for leaf in self.leaves))
''',
    'configs/_base_/leaves.py': """
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[120.] * 3, std=[60.] * 3, bgr_to_rgb=True, size=(32, 32),
                           pad_val=0, seg_pad_val=255),
    backbone=dict(type='ResNetV1c', depth=18, base_channels=8, out_indices=(0, 1, 2, 3), strides=(1, 2, 1, 1),
                  dilations=(1, 1, 2, 4), norm_cfg=norm_cfg),
    decode_head=dict(type='LeafHead', kernel_sizes=(1, 3), in_channels=64, in_index=3, channels=12, num_classes=3,
                     norm_cfg=norm_cfg, loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
""",
    'configs/_base_/plots.py': """
data_root = 'data/plots'
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
dataset = dict(
    type='BaseSegDataset', data_root=data_root, img_suffix='.png', seg_map_suffix='.png', pipeline=pipeline,
    metainfo=dict(classes=('soil', 'leaf', 'weed'), palette=[[90, 60, 30], [0, 200, 0], [200, 0, 0]]))
train_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
                        dataset=dict(data_prefix=dict(img_path='images/train', seg_map_path='labels/train'), **dataset))
val_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                      dataset=dict(data_prefix=dict(img_path='images/val', seg_map_path='labels/val'), **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
""",
    'configs/leaves_plots.py': """
_base_ = ['./_base_/leaves.py', './_base_/plots.py']
default_scope = 'mmseg'
custom_imports = dict(imports=['garden'], allow_failed_imports=False)
custom_hooks = [dict(type='GardenHook')]
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01), clip_grad=dict(max_norm=5.),
    paramwise_cfg=dict(custom_keys={'decode_head.leaves': dict(lr_mult=10.)}))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=3, val_interval=3)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(logger=dict(type='LoggerHook', interval=1),
                     checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3))
log_processor = dict(by_epoch=False)
env_cfg = dict(cudnn_benchmark=False)
""",
}


def run(*arguments, cwd):
    """A command in the project, as its owner runs it; returns what it printed."""
    environment = dict(
        os.environ,
        OMP_NUM_THREADS='1',
        CUDA_VISIBLE_DEVICES='',
        PYTHONPATH=os.pathsep.join(filter(None, ['.', os.environ.get('PYTHONPATH')])),
    )
    process = subprocess.run(
        [python(), *map(str, arguments)],
        cwd=str(cwd),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert process.returncode == 0, process.stdout[-3000:]
    return process.stdout


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp('project')
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    random = np.random.RandomState(0)
    for split, count in (('train', 4), ('val', 2)):
        for i in range(count):
            mmcv.imwrite(
                random.randint(0, 256, (32, 32, 3)).astype(np.uint8),
                str(root / f'data/plots/images/{split}/{i}.png'),
            )
            mmcv.imwrite(
                random.randint(0, 3, (32, 32)).astype(np.uint8),
                str(root / f'data/plots/labels/{split}/{i}.png'),
            )
    return root


@pytest.fixture(scope='module')
def trained(project):
    """What training the converted config printed; its checkpoint is in ``run``."""
    run(
        TOOLS / 'convert_config.py',
        'configs/leaves_plots.py',
        *('--out', 'configs/afan_leaves_plots.py'),
        # late sites are found by a counter of torch 2.1
        *(('--sites', 'neck,head') if older(torch, '2.1') else ()),
        cwd=project,
    )
    return run(
        HOST_TOOLS / 'train.py',
        'configs/afan_leaves_plots.py',
        '--work-dir',
        'run',
        '--cfg-options',
        'custom_hooks.1.interval=1',
        cwd=project,
    )


def test_stock_tool_trains_the_converted_config(project, trained):
    assert 'A-FAN sites:' in trained and 'the garden grew for 3 iterations' in trained
    record = next(project.glob('run/*/vis_data/scalars.json'))
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    steps = [line for line in lines if 'loss' in line]
    assert len(steps) == 3 and all(np.isfinite(step['loss']) for step in steps)
    assert all(
        step[f'afan/{site}/delta_norm'] > 0
        for step in steps[1:]
        for site in ('neck', 'decode_head')
    )
    saved = next(project.glob('run/*/vis_data/config.py'))
    wrapper = Config.fromfile(str(saved), import_custom_modules=False).optim_wrapper
    assert wrapper.type == 'AFANOptimWrapper' and wrapper.clip_grad == dict(max_norm=5.0)
    assert wrapper.paramwise_cfg.custom_keys == {'decode_head.leaves': dict(lr_mult=10.0)}


def test_stock_tool_evaluates_the_converted_config(project, trained):
    printed = run(
        HOST_TOOLS / 'test.py',
        'configs/afan_leaves_plots.py',
        'run/iter_3.pth',
        '--work-dir',
        'tested',
        cwd=project,
    )
    assert 'mIoU' in printed
    metrics = json.loads(next(project.glob('tested/*/*.json')).read_text())
    assert 0 <= metrics['mIoU'] <= 100


def test_checkpoint_goes_back_into_the_stock_config(project, trained, monkeypatch):
    monkeypatch.syspath_prepend(str(project))
    outputs, batch = [], segmentation_batch()
    images = [{key: values[i : i + 1] for key, values in batch.items()} for i in range(2)]
    for name in ('leaves_plots', 'afan_leaves_plots'):
        cfg = Config.fromfile(str(project / 'configs' / f'{name}.py'))
        with DefaultScope.overwrite_default_scope('mmseg'):
            model = MODELS.build(cfg.model).eval()
            load_checkpoint(model, str(project / 'run' / 'iter_3.pth'), strict=True)
            with torch.no_grad():
                samples = [model.test_step(image)[0] for image in images]
            outputs.append({i: sample.seg_logits.data for i, sample in enumerate(samples)})
        assert isinstance(model.decode_head, afan_mm.AFANDecodeHead) == (
            name == 'afan_leaves_plots'
        )
    assert_identical(*outputs)
    assert outputs[0][0].shape == (3, 32, 32) and outputs[0][0].std() > 0
