"""The hosts' inferencers take an A-FAN config and the checkpoint of its run, and predict what the
stock config does.
"""

import pytest
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmseg.apis import MMSegInferencer

from afan_mm.cli.runner import build_runner
from support.digits import digits_voc
from support.paths import DIGITS
from support.tiny import assert_identical
from support.tools import configure_train

INFERENCERS = dict(mmseg=MMSegInferencer, mmdet=DetInferencer)
VALUES = dict(
    mmseg=lambda sample: dict(logits=sample.seg_logits.data, labels=sample.pred_sem_seg.data),
    mmdet=lambda sample: {
        key: sample.pred_instances[key] for key in ('bboxes', 'scores', 'labels')
    },
)
# it has learnt nothing
CHANGES = dict(mmseg='', mmdet='model = dict(test_cfg=dict(rcnn=dict(score_thr=0.0)))')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('inferencers') / 'digits'
    digits_voc.make_digits_voc(root, train=4, val=2)
    return root


def write_config(path, base, data, host):
    loaders = '\n'.join(
        f"{loader}_dataloader = dict(dataset=dict(data_root='{data}/'))"
        for loader in ('train', 'val', 'test')
    )
    path.write_text(f"_base_ = '{base}'\n{loaders}\n{CHANGES[host]}\n")
    return str(path)


def train(config, work_dir):
    """The checkpoint of two iterations."""
    cfg = configure_train(
        config,
        '--work-dir',
        str(work_dir),
        '--cfg-options',
        'train_dataloader.batch_size=2',
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=3',
        'default_hooks.checkpoint.interval=2',
    )
    build_runner(cfg).train()
    return str(work_dir / 'iter_2.pth')


@pytest.mark.parametrize('host', ('mmseg', 'mmdet'))
def test_predictions_are_those_of_the_stock_config(host, data, tmp_path):
    stock = DIGITS[host].parent / DIGITS[host].name[len('afan_') :]
    configs = [
        write_config(tmp_path / f'{base.stem}.py', base, data, host)
        for base in (DIGITS[host], stock)
    ]
    types = [Config.fromfile(config).model.get('neck', {}).get('type') for config in configs]
    assert types[0] == 'AFANNeckWrapper' != types[1]
    checkpoint = train(configs[0], tmp_path / 'work')
    images = [str(data / 'JPEGImages' / f'val_0000{index}.jpg') for index in range(2)]
    found = []
    for config in configs:
        inferencer = INFERENCERS[host](config, checkpoint, device='cpu')
        assert inferencer.model.dataset_meta['classes'][-5:] == tuple('01234')
        predictions = inferencer(images, return_datasamples=True)
        samples = predictions['predictions'] if isinstance(predictions, dict) else predictions
        found.append([VALUES[host](sample) for sample in samples])
    for ours, expected in zip(*found):
        assert len(expected['labels']) and torch.isfinite(next(iter(expected.values()))).all()
        assert_identical(ours, expected)
    assert len(found[0]) == 2
    with pytest.raises(AssertionError):
        assert_identical(*found[0])  # the images differ
