"""Whole projects of the three hosts, with data on disk, small enough to train in a second."""

from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config

from support.tiny import detector_config, segmentor_config

CLASSES = ('a', 'b', 'c', 'd', 'e')
NUM_TRAIN, NUM_VAL, SIZE = 8, 6, 32
PRIMARY = dict(mmseg='mIoU', mmdet='mAP', mmpretrain='accuracy/top1')


def write_project(host: str, folder: Path) -> Path:
    """Data and a stock config of 'mmseg', 'mmdet' or 'mmpretrain'; the config's path."""
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(mmseg=_segmentation, mmdet=_detection, mmpretrain=_classification)[host](folder)
    path = folder / 'stock.py'
    Config(dict(config, **COMMON, default_scope=host)).dump(str(path))
    return path


def write_experiment(folder: Path, **content) -> Path:
    """An experiment file beside the config of :func:`write_project`."""
    path = folder / 'trial.py'
    path.write_text('\n'.join(f'{k} = {v!r}' for k, v in {'base': 'stock.py', **content}.items()))
    return path


def afan_overrides(host: str, **afan) -> dict:
    """What makes an A-FAN arm of a stock config."""
    base = dict(mmseg=None, mmdet='FPN', mmpretrain='GlobalAveragePooling')[host]
    return {
        'custom_imports': dict(imports=['afan_mm'], allow_failed_imports=False),
        'optim_wrapper.type': 'AFANOptimWrapper',
        'model.neck.type': 'AFANNeckWrapper',
        'model.neck.base': base,
        'model.neck.afan': dict(dict(epsilon=0.5, num_strengths=1), **afan),
    }


COMMON = dict(
    train_cfg=dict(type='IterBasedTrainLoop', max_iters=4, val_interval=4),
    val_cfg=dict(type='ValLoop'),
    test_cfg=dict(type='TestLoop'),
    optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
    param_scheduler=[dict(type='PolyLR', eta_min=1e-4, begin=0, end=4, by_epoch=False)],
    default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
    log_processor=dict(by_epoch=False),
    env_cfg=dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0)),
)


def _loaders(train: dict, val: dict, metric: dict) -> dict:
    val_loader = dict(
        batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=val
    )
    return dict(
        train_dataloader=dict(
            batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'), dataset=train
        ),
        val_dataloader=val_loader,
        test_dataloader=val_loader,
        val_evaluator=metric,
        test_evaluator=metric,
    )


def _images(folder: Path, split: str, number: int, suffix: str = 'png') -> list:
    """Write random images ``<split>0.png``, …; their names."""
    random = np.random.default_rng(len(split))
    folder.mkdir(parents=True, exist_ok=True)
    names = [f'{split}{index}' for index in range(number)]
    for name in names:
        image = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'{name}.{suffix}'), image)
    return names


def _segmentation(folder: Path) -> dict:
    splits = []
    for split, number in (('train', NUM_TRAIN), ('val', NUM_VAL)):
        names = _images(folder / 'img' / split, split, number)
        random = np.random.default_rng(1)
        (folder / 'ann' / split).mkdir(parents=True)
        for name in names:
            labels = random.integers(0, len(CLASSES), (SIZE, SIZE), dtype=np.uint8)
            cv2.imwrite(str(folder / 'ann' / split / f'{name}.png'), labels)
        pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
        pipeline += [dict(type='RandomFlip', prob=0.5)] if split == 'train' else []
        splits.append(
            dict(
                type='BaseSegDataset',
                data_root=str(folder),
                data_prefix=dict(img_path=f'img/{split}', seg_map_path=f'ann/{split}'),
                img_suffix='.png',
                metainfo=dict(classes=CLASSES, palette=[[i, i, i] for i in range(len(CLASSES))]),
                pipeline=[*pipeline, dict(type='PackSegInputs')],
            )
        )
    metric = dict(type='IoUMetric', iou_metrics=['mIoU'])
    return dict(model=segmentor_config(), **_loaders(*splits, metric))


BOX = (
    '<annotation><size><width>{0}</width><height>{0}</height><depth>3</depth></size><object>'
    '<name>{1}</name><difficult>0</difficult><bndbox><xmin>{2}</xmin><ymin>{2}</ymin>'
    '<xmax>{3}</xmax><ymax>{3}</ymax></bndbox></object></annotation>'
)


def _detection(folder: Path) -> dict:
    (folder / 'Annotations').mkdir()
    splits = []
    for split, number in (('train', NUM_TRAIN), ('val', NUM_VAL)):
        names = _images(folder / 'JPEGImages', split, number, 'jpg')
        for index, name in enumerate(names):
            box = BOX.format(SIZE, CLASSES[index % 2], 3 + index, 20 + index)
            (folder / 'Annotations' / f'{name}.xml').write_text(box)
        (folder / f'{split}.txt').write_text('\n'.join(names))
        load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
        load += [dict(type='RandomFlip', prob=0.5)] if split == 'train' else []
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
        keys += ('flip', 'flip_direction') if split == 'train' else ()
        resize = dict(type='Resize', scale=(64, 64), keep_ratio=True)
        splits.append(
            dict(
                type='XMLDataset',
                data_root=f'{folder}/',
                ann_file=f'{split}.txt',
                data_prefix=dict(sub_data_root=''),
                img_subdir='JPEGImages',
                metainfo=dict(classes=CLASSES),
                test_mode=split == 'val',
                pipeline=[*load, resize, dict(type='PackDetInputs', meta_keys=keys)],
            )
        )
    metric = dict(type='VOCMetric', metric='mAP', eval_mode='area')
    return dict(model=detector_config(), **_loaders(*splits, metric))


def _classification(folder: Path) -> dict:
    splits = []
    for split, number in (('train', NUM_TRAIN), ('val', NUM_VAL)):
        for name in CLASSES[:2]:
            _images(folder / split / name, split, number // 2)
        pipeline = [dict(type='LoadImageFromFile')]
        pipeline += [dict(type='RandomFlip', prob=0.5)] if split == 'train' else []
        splits.append(
            dict(
                type='CustomDataset',
                data_root=str(folder),
                data_prefix=split,
                with_label=True,
                pipeline=[*pipeline, dict(type='PackInputs')],
            )
        )
    model = dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            mean=[120.0] * 3, std=[60.0] * 3, num_classes=2, type='ClsDataPreprocessor'
        ),
        backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=2,
            in_channels=64,
            loss=dict(type='CrossEntropyLoss'),
            topk=(1,),
        ),
    )
    return dict(model=model, **_loaders(*splits, dict(type='Accuracy', topk=(1,))))
