"""The paper's configs against its tables: schedules, data, metrics, strengths and sites, as the
runner resolves them.
"""

import functools
import json
import re

import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS

from support.paper_tables import (
    AFAN,
    PAPER,
    RELEASED_STRENGTHS,
    RELEASED_WEIGHTS,
    STRENGTHS,
    experiment,
    load,
    row,
)

VOC_SEG = 'ImageSets/Segmentation/'
# Lists of images for training and evaluation, below the data's root.
SPLITS = {
    'det_voc07': (['VOC2007/ImageSets/Main/trainval.txt'], 'VOC2007/ImageSets/Main/test.txt'),
    'det_voc0712': (
        ['VOC2007/ImageSets/Main/trainval.txt', 'VOC2012/ImageSets/Main/trainval.txt'],
        'VOC2007/ImageSets/Main/test.txt',
    ),
    'det_coco': (['annotations/instances_train2017.json'], 'annotations/instances_val2017.json'),
    'seg_voc07': ([VOC_SEG + 'trainval.txt'], VOC_SEG + 'test.txt'),
    'seg_voc12': ([VOC_SEG + 'train.txt'], VOC_SEG + 'val.txt'),
    'seg_cityscapes': (['leftImg8bit/train'], 'leftImg8bit/val'),
}
ROOTS = {
    'det_coco': 'data/coco/',
    'seg_voc07': 'data/VOCdevkit/VOC2007',
    'seg_voc12': 'data/VOCdevkit/VOC2012',
    'seg_cityscapes': 'data/cityscapes/',
}
WARM_UP, START = 100, 0.001


@functools.lru_cache(maxsize=None)
def _stepped(initial, schedulers, iterations):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=initial)
    built = [
        PARAM_SCHEDULERS.build(dict(each, optimizer=optimizer)) for each in json.loads(schedulers)
    ]
    rates = []
    for _ in range(iterations):
        rates.append(optimizer.param_groups[0]['lr'])
        for scheduler in built:
            scheduler.step()
    return rates


def rates(cfg):
    """The learning rate of every iteration."""
    return _stepped(
        cfg.optim_wrapper.optimizer.lr, json.dumps(cfg.param_scheduler), cfg.train_cfg.max_iters
    )


def expected_rate(iteration, initial, total, decay, warm_up, start, end):
    if decay == 'poly':
        # mmengine's ends in the last iteration
        rate = (initial - end) * (1 - iteration / (total - 1)) ** 0.9 + end
    else:
        rate = initial * 0.1 ** sum(iteration >= point for point in decay)
    # The first iteration of `warm_up` has `start` of the rate, the last one all of it.
    return rate * (1 if iteration >= warm_up else start + (1 - start) * iteration / (warm_up - 1))


def test_every_row_of_the_tables_has_its_configs():
    """Tables 6, 7 and 8: baseline and A-FAN, for each backbone, and each detector; Tables 10 and
    11: the arms.
    """
    seg = [
        f'deeplabv3plus_{end}'
        for end in (
            'r50-d8_1xb4-30k_voc12-513x513',
            'r101-d8_1xb4-30k_voc12-513x513',
            'r50-d8_1xb4-10k_voc07-513x513',
            'r50-d8_1xb4-30k_cityscapes-768x768',
        )
    ]
    det = [
        f'faster-rcnn_{depth}{kind}_1xb8-{data}'
        for kind in ('_fpn', '-caffe-c4')
        for depth, data in (
            ('r50', '11250_voc07'),
            ('r101', '11250_voc07'),
            ('r50', '180k_coco'),
            ('r101', '180k_coco'),
            ('r101', '37500_voc0712'),
        )
    ]
    lda = [f'faster-rcnn_r101{kind}_1xb8-37500_voc0712-lda' for kind in ('_fpn', '-caffe-c4')]
    arms = [f'afan_{seg[0]}_{arm}' for arm in ('afa', 'gaussian', 'control', 'backbone', 'decoder')]
    arms += [
        f'afan_faster-rcnn_r50-caffe-c4_1xb8-11250_voc07_{arm}'
        for arm in ('afa', 'gaussian', 'control', 'backbone', 'roi')
    ]
    released = [
        'afan_deeplabv3plus_r50-d16_1xb4-30k_voc12-513x513',
        'afan_deeplabv3plus_r50-d16_1xb4-15k_voc07-513x513',
        'afan_deeplabv3plus_r50-d16_1xb4-30k_cityscapes-768x768',
        'afan_faster-rcnn_r50-caffe-c4_1xb8-11250_voc07',
        'afan_faster-rcnn_r50-caffe-c4_1xb8-180k_coco',
    ]
    expected = (
        seg
        + det
        + lda
        + [f'afan_{name}' for name in seg + det]
        + arms
        + [f'{name}_released' for name in released]
        + [f'advprop_{name}' for name in (seg[0], det[0])]
    )
    assert sorted(expected) == PAPER


@pytest.mark.parametrize('name', PAPER)
def test_schedule(name):
    batch, iterations, initial, decay, weight_decay = row(name)
    cfg, released = load(name), name.endswith('_released')
    gpus, per_gpu, length = re.search(r'_(\d+)xb(\d+)-(\d+k?)_', name).groups()
    assert (
        int(gpus) * cfg.train_dataloader.batch_size == batch
        and int(per_gpu) == cfg.train_dataloader.batch_size
    )
    assert (
        cfg.train_cfg.type == 'IterBasedTrainLoop'
        and cfg.train_dataloader.sampler.type == 'InfiniteSampler'
    )
    assert cfg.train_cfg.max_iters == iterations == int(length.replace('k', '000'))
    optimizer = dict(cfg.optim_wrapper.optimizer)
    assert optimizer == dict(type='SGD', lr=initial, momentum=0.9, weight_decay=weight_decay)

    warm_up, start, end = WARM_UP, START, 0.0
    if released:
        warm_up, start, end = (0, 1, 1e-6) if decay == 'poly' else (500, 1 / 3, 0.0)
    around = [point + shift for point in (() if decay == 'poly' else decay) for shift in (-1, 0)]
    stepped = rates(cfg)
    for iteration in (0, 50, 99, 100, 499, 500, iterations // 2, *around, iterations - 1):
        expected = expected_rate(iteration, initial, iterations, decay, warm_up, start, end)
        assert stepped[iteration] == pytest.approx(expected, rel=1e-6), iteration


@pytest.mark.parametrize('name', PAPER)
def test_evaluates_and_saves_the_last_iteration(name):
    cfg = load(name)
    assert cfg.train_cfg.max_iters % cfg.train_cfg.val_interval == 0
    checkpoint = cfg.default_hooks.checkpoint
    assert checkpoint.by_epoch is False and cfg.train_cfg.max_iters % checkpoint.interval == 0
    assert cfg.log_processor.by_epoch is False


def lists_of(dataset):
    """The lists of images, or for Cityscapes the folders, that a data set reads, and their
    roots.
    """
    parts = dataset.datasets if dataset.type == 'ConcatDataset' else [dataset]
    return [part.get('ann_file') or part.data_prefix.img_path for part in parts], {
        part.data_root for part in parts
    }


@pytest.mark.parametrize('name', PAPER)
def test_data(name):
    cfg, key = load(name), experiment(name)
    train, test = SPLITS[key]
    # the released code trains on train and evaluates on val, for every year
    if name.endswith('voc07-513x513_released'):
        train, test = [VOC_SEG + 'train.txt'], VOC_SEG + 'val.txt'
    root = ROOTS.get(key, 'data/VOCdevkit/')
    assert lists_of(cfg.train_dataloader.dataset) == (train, {root})
    assert lists_of(cfg.val_dataloader.dataset) == ([test], {root})
    assert cfg.test_dataloader == cfg.val_dataloader


@pytest.mark.parametrize('name', PAPER)
def test_metric(name):
    cfg, key = load(name), experiment(name)
    evaluator = dict(cfg.val_evaluator)
    if key == 'det_coco':  # AP, AP50 and AP75 are CocoMetric's box figures
        assert evaluator['type'] == 'CocoMetric' and evaluator['metric'] == 'bbox'
        assert evaluator['ann_file'] == 'data/coco/annotations/instances_val2017.json'
    elif key.startswith('det'):
        assert (
            evaluator['type'] == 'VOCMetric'
            and evaluator['metric'] == 'mAP'
            and evaluator['eval_mode'] == '11points'
        )
    else:
        assert evaluator['type'] == 'IoUMetric' and evaluator['iou_metrics'] == ['mIoU']
    assert cfg.test_evaluator == cfg.val_evaluator


@pytest.mark.parametrize('name', PAPER)
def test_classes(name):
    cfg = load(name)
    classes = {'det_coco': 80, 'seg_cityscapes': 19}.get(
        experiment(name), 20 if 'rcnn' in name else 21
    )
    heads = (
        [cfg.model.roi_head.bbox_head]
        if 'rcnn' in name
        else [cfg.model.decode_head, cfg.model.get('auxiliary_head')]
    )
    assert [head.num_classes for head in heads if head] == [classes] * sum(
        bool(head) for head in heads
    )


@pytest.mark.parametrize('name', [name for name in PAPER if 'rcnn' not in name])
def test_crop(name):
    cfg = load(name)
    size = tuple(int(side) for side in re.search(r'(\d+)x(\d+)(?:_|$)', name).groups())
    crop = next(
        each for each in cfg.train_dataloader.dataset.pipeline if each['type'] == 'RandomCrop'
    )
    assert tuple(crop['crop_size']) == size == tuple(cfg.model.data_preprocessor.size)


def sites(name):
    """Settings of the backbone's site and of the decoder's or RoI head's."""
    model = load(name).model
    return model.neck.afan, (model.roi_head if 'rcnn' in name else model.decode_head).afan


@pytest.mark.parametrize('name', [name for name in AFAN if not name.endswith('_released')])
def test_strengths_of_the_paper(name):
    """PGD-1 with step size alpha, strengths uniform in [0, alpha], at the backbone's last layer and
    the decoder or RoI.
    """
    *epsilons, backbone, head = STRENGTHS[experiment(name)]
    arm = re.search(r'_(backbone|decoder|roi)$', name)
    backbone, head = (
        (backbone, head) if not arm else (backbone, 0) if arm[1] == 'backbone' else (0, head)
    )
    assert (
        load(name).optim_wrapper.type == 'AFANOptimWrapper'
        and load(name).optim_wrapper.clean_weight == 1
    )
    for afan, epsilon, count in zip(sites(name), epsilons, (backbone, head)):
        assert afan.epsilon == pytest.approx(epsilon / 255) and afan.num_strengths == count
        assert 'step_size' not in afan and afan.num_steps == 1 and afan.strengths == 'uniform'
        assert (
            'site' not in afan
            and 'levels' not in afan
            and afan.adv_weight == 1
            and afan.detach is False
        )
        assert afan.moments == (None if name.endswith('_afa') else 'batch')
        assert afan.get('perturbation', 'gradient') == (
            'gaussian'
            if name.endswith('_gaussian')
            else 'none'
            if name.endswith('_control')
            else 'gradient'
        )


@pytest.mark.parametrize('name', [name for name in AFAN if name.endswith('_released')])
def test_strengths_of_the_released_code(name):
    key = experiment(name)
    clean, *weights = RELEASED_WEIGHTS[key[:3]]
    epsilons, counts = RELEASED_STRENGTHS[key][:2], RELEASED_STRENGTHS[key][2:]
    assert load(name).optim_wrapper.clean_weight == pytest.approx(clean)
    for afan, epsilon, count, weight in zip(sites(name), epsilons, counts, weights):
        assert afan.epsilon == pytest.approx(epsilon / 255) and afan.num_strengths == count
        assert (
            afan.adv_weight == pytest.approx(weight)
            and afan.strengths == 'linspace'
            and afan.detach is True
        )
    backbone, head = sites(name)
    layer = 'backbone.layer3' if key == 'seg_voc12' else 'backbone.layer2'
    assert backbone.site == layer and head.site == (
        'vector' if key.startswith('det') else 'bottleneck'
    )
    assert backbone.moments == 'positional' and backbone.unbiased is True
    if key.startswith('seg'):
        rates_of = load(name).optim_wrapper.paramwise_cfg.custom_keys
        assert (
            rates_of == dict(backbone=dict(lr_mult=0.1)) and load(name).model.auxiliary_head is None
        )
        assert backbone.detach_context is False and backbone.bn_stats == head.bn_stats == 'all'
        assert load(name).model.backbone.norm_cfg.momentum == 0.01
