"""Real Runners of the robust evaluation: tiny models on generated digits of several shapes."""

from itertools import count

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image

from support.paths import ROOT
from support.tiny import build, detector_config, segmentor_config

STOCK = dict(
    mmseg=ROOT / 'configs/deeplabv3plus/deeplabv3plus_r18-d8_1xb8-300_digits-96x96.py',
    mmdet=ROOT / 'configs/faster_rcnn/faster-rcnn_r18_fpn_1xb4-280_digits.py',
)
TWO_STEPS = dict(type='RobustTestLoop', num_steps=2, step_size='4/255', epsilon='8/255')
IMAGES = 5
RUNS = count()  # mmengine's loggers and visualizers are found again by the name of the experiment


def make_data(digits_voc, root):
    """Digits of which every second image is cut to a smaller height, with its boxes and its map."""
    digits_voc.make_digits_voc(root, train=1, val=IMAGES, size=64)
    for index in range(0, IMAGES, 2):
        for path in (
            root / f'JPEGImages/val_{index:05d}.jpg',
            root / f'SegmentationClass/val_{index:05d}.png',
        ):
            with Image.open(path) as image:
                image.crop((0, 0, 64, 56)).save(path, quality=95)
    return root


def config(host, data, work_dir, batch_size=1, **test_cfg):
    """The stock config with a tiny model; the image is shown to the model at another size than on
    disk.
    """
    cfg = Config.fromfile(str(STOCK[host]))
    if host == 'mmseg':
        cfg.model = segmentor_config()
        cfg.model.data_preprocessor.test_cfg = dict(size_divisor=32)
        cfg.model.decode_head.num_classes = cfg.model.auxiliary_head.num_classes = 6
        pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(48, 48), keep_ratio=True),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ]
    else:
        cfg.model = detector_config()
        cfg.model.test_cfg.rcnn.score_thr = 0.0
        cfg.model.train_cfg.rpn.sampler.num = cfg.model.train_cfg.rcnn.sampler.num = 8  # by chance
        cfg.test_evaluator.iou_thrs = 0.1  # an untrained model has metrics other than zero
        pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(72, 72), keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='PackDetInputs'),
        ]
    cfg.test_dataloader.dataset.update(data_root=f'{data}/', pipeline=pipeline)
    cfg.test_dataloader.update(batch_size=batch_size, num_workers=0, persistent_workers=False)
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.update(
        work_dir=str(work_dir),
        test_cfg=dict(TWO_STEPS, **test_cfg),
        experiment_name=f'{host}_{next(RUNS)}',
    )
    return cfg


def runner_of(cfg):
    """A runner with weights that depend on nothing but the host."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = build(cfg.model)
    keys = (
        'test_dataloader',
        'test_evaluator',
        'test_cfg',
        'work_dir',
        'experiment_name',
        'visualizer',
        'default_scope',
        'default_hooks',
    )
    parts = {key: cfg[key] for key in keys}
    # The runner writes its config four times, and to make that pretty takes longer than the run.
    return Runner(
        model=model, cfg=Config(dict(parts, model=cfg.model), format_python_code=False), **parts
    )
