"""The corruptions of images, the figures of Michaelis et al., and the loop over both."""

import json

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from afan_mm.robustness import CommonCorruption, CorruptionError
from afan_mm.robustness.corruption_loop import with_corruption
from afan_mm.robustness.corruptions import (
    corrupt,
    corruption_names,
    main_metric,
    summarize,
)
from support.projects import write_project

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
METRIC = dict(mmseg='mIoU', mmdet='pascal_voc/mAP', mmpretrain='accuracy/top1')


def test_the_benchmark_has_fifteen():
    assert len(corruption_names()) == 15 and len(corruption_names('all')) == 19


@pytest.mark.parametrize('name', ['gaussian_noise', 'impulse_noise', 'glass_blur', 'frost'])
def test_every_model_sees_the_same_image(name):
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    first = corrupt(IMAGE, name, 3, 'a/image.jpg')
    assert np.array_equal(np.random.get_state()[1], before)  # nobody else's draws are shifted
    np.random.seed(2)
    assert np.array_equal(corrupt(IMAGE, name, 3, 'elsewhere/image.jpg'), first)
    assert not np.array_equal(corrupt(IMAGE, name, 3, 'a/other.jpg'), first)
    assert first.shape == IMAGE.shape and first.dtype == np.uint8


def test_colours_are_those_of_the_package(tmp_path):
    import imagecorruptions

    bgr = np.zeros((32, 32, 3), np.uint8)
    bgr[..., 2] = 200  # red
    found = CommonCorruption('saturate', 2)(dict(img=bgr, img_path='a'))['img']
    expected = imagecorruptions.corrupt(bgr[..., ::-1].copy(), 2, 'saturate')
    assert np.array_equal(found[..., ::-1], expected)
    rgb = CommonCorruption('saturate', 2, channel_order='rgb')
    assert np.array_equal(rgb(dict(img=bgr[..., ::-1].copy(), img_path='a'))['img'], expected)


def test_without_a_corruption_the_image_stays():
    results = dict(img=IMAGE)
    assert CommonCorruption()(results)['img'] is IMAGE


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(corruption='rain'), "corruption must be one of gaussian_noise.*, but got 'rain'"),
        (dict(severity=6), r'severity must be one of \(1, 2, 3, 4, 5\), but got 6'),
    ],
)
def test_unknown_corruptions_are_refused(arguments, message):
    with pytest.raises(CorruptionError, match=message):
        CommonCorruption(**arguments)


def test_small_images_are_refused():
    with pytest.raises(CorruptionError, match=r'at least 32 x 32 pixels, but got \(31, 48, 3\)'):
        CommonCorruption('fog')(dict(img=IMAGE[:31], img_path='a'))


def test_mpc_and_rpc_by_hand():
    corrupted = {
        ('fog', 1): dict(mIoU=40.0),
        ('fog', 2): dict(mIoU=20.0),
        ('snow', 1): dict(mIoU=30.0),
        ('snow', 2): dict(mIoU=10.0),
    }
    found = summarize(dict(mIoU=50.0), corrupted, 'mIoU')
    assert found == dict(clean=50.0, fog=30.0, snow=20.0, mPC=25.0, rPC=0.5)


def test_the_metric_that_a_task_is_judged_by():
    assert main_metric(['aAcc', 'mIoU']) == 'mIoU'
    assert main_metric(['coco/bbox_mAP_50', 'coco/bbox_mAP']) == 'coco/bbox_mAP'
    with pytest.raises(CorruptionError, match='metric must be given, one of PQ'):
        main_metric(['PQ'])


def test_the_corruption_stands_behind_the_loading():
    loader = dict(
        persistent_workers=True,
        dataset=dict(
            type='RepeatDataset',
            dataset=dict(pipeline=[dict(type='mmseg.LoadImageFromFile'), dict(type='Resize')]),
        ),
    )
    found = with_corruption(loader)
    kinds = [each['type'] for each in found['dataset']['dataset']['pipeline']]
    assert kinds == ['mmseg.LoadImageFromFile', 'CommonCorruption', 'Resize']
    assert not found['persistent_workers']
    assert len(loader['dataset']['dataset']['pipeline']) == 2
    with pytest.raises(CorruptionError, match=r"need a test pipeline .* but got \['Resize'\]"):
        with_corruption(dict(dataset=dict(pipeline=[dict(type='Resize')])))


def test_the_images_of_every_part_of_a_test_set(tmp_path):
    """Twice the same part has the figures of one, clean and corrupted."""
    cfg, found = Config.fromfile(str(write_project('mmseg', tmp_path))), []
    part = cfg.test_dataloader.dataset
    for dataset in (part, dict(type='ConcatDataset', datasets=[part, part])):
        cfg.test_dataloader.dataset = dataset
        cfg.work_dir, cfg.experiment_name = str(tmp_path / 'out'), f'corrupted_{len(found)}'
        cfg.test_cfg = dict(type='CorruptionTestLoop', corruptions=['fog'], severities=[5])
        cfg.test_evaluator = [dict(type='CalibrationMetric')]
        cfg.test_cfg.metric, cfg.randomness = 'calibration/nll', dict(seed=0)
        found.append(Runner.from_cfg(cfg).test())
    one, both = found
    assert one['corruption/fog'] != one['calibration/nll']
    for key in ('corruption/fog', 'calibration/nll'):
        assert both[key] == pytest.approx(one[key], rel=1e-6)


@pytest.mark.parametrize('host', METRIC)
def test_the_loop_of_each_host(host, tmp_path):
    cfg = Config.fromfile(str(write_project(host, tmp_path)))
    cfg.work_dir, cfg.experiment_name = str(tmp_path / 'out'), f'corruptions_{host}'
    cfg.test_cfg = dict(
        type='CorruptionTestLoop', corruptions=['brightness', 'pixelate'], severities=[1, 5]
    )
    if host != 'mmdet':
        cfg.test_evaluator = [cfg.test_evaluator, dict(type='CalibrationMetric')]
    metrics = Runner.from_cfg(cfg).test()
    found = json.loads((tmp_path / 'out' / 'corruptions.json').read_text())
    metric = METRIC[host]
    assert found['metric'] == metric and metrics[metric] == found['clean'][metric]
    values = [
        found['corrupted'][name][severity][metric]
        for name in ('brightness', 'pixelate')
        for severity in ('1', '5')
    ]
    assert metrics['corruption/mPC'] == pytest.approx(np.mean(values))
    assert cv2.imread(str(tmp_path / 'out' / 'corruptions.png')) is not None
    if host != 'mmdet':  # a likelihood tells what an untrained model's metrics do not
        nll = {
            metrics['calibration/nll']
            for severities in found['corrupted'].values()
            for metrics in severities.values()
        }
        assert len(nll | {found['clean']['calibration/nll']}) == 5  # each changed the images
