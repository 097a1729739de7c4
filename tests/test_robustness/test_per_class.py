"""A metric of each class, against numbers by hand and the hosts' own means."""

import math

import pytest
import torch
from mmdet.evaluation import VOCMetric
from mmseg.evaluation import IoUMetric

from afan_mm.robustness import PerClassMetric
from support.detections import instances, no_instances, sample


def metric_of(classes, **settings):
    metric = PerClassMetric(**settings)
    metric.dataset_meta = dict(classes=classes)
    return metric


def test_boxes_by_hand():
    metric = metric_of(('cell', 'plate', 'absent'))
    truth = instances((0, 0, 9, 9, 0), (20, 20, 29, 29, 0), (40, 40, 49, 49, 1))
    found = instances(
        (0, 0, 9, 9, 0, 0.9),  # right
        (60, 60, 69, 69, 0, 0.8),  # wrong
        (20, 20, 29, 29, 0, 0.7),  # right
        (40, 40, 49, 44, 1, 0.6),  # an IoU of one half with its last pixel counted
    )
    metric.process({}, [sample(truth, found, no_instances())])
    figures = metric.evaluate(1)
    # a recall of one half at a precision of 1, the other half at 2/3
    assert figures['per_class/cell'] == pytest.approx((1 + 2 / 3) / 2)
    assert figures['per_class/plate'] == pytest.approx(1)
    assert math.isnan(figures['per_class/absent'])

    stricter = metric_of(('cell', 'plate', 'absent'), iou_thr=1)
    stricter.process({}, [sample(truth, found, no_instances())])
    assert stricter.evaluate(1)['per_class/plate'] == 0


def test_pixels_by_hand():
    metric = metric_of(('sky', 'road', 'absent'), ignore_index=7)
    truth = torch.tensor([[[0, 0, 1, 7]]])
    found = torch.tensor([[[0, 1, 1, 1]]])
    for _ in range(2):
        metric.process({}, [dict(pred_sem_seg=dict(data=found), gt_sem_seg=dict(data=truth))])
    figures = metric.evaluate(2)
    assert figures['per_class/sky'] == pytest.approx(50)
    assert figures['per_class/road'] == pytest.approx(50)
    assert math.isnan(figures['per_class/absent'])


def test_labels_by_hand():
    metric = metric_of(('cat', 'dog', 'absent'))
    for label, scores in ((0, (0.6, 0.3, 0.1)), (0, (0.2, 0.7, 0.1)), (1, (0.1, 0.8, 0.1))):
        scores = torch.tensor(scores)
        metric.process({}, [dict(pred_score=scores, gt_label=torch.tensor([label]))])
    figures = metric.evaluate(3)
    assert figures['per_class/cat'] == pytest.approx(50)
    assert figures['per_class/dog'] == pytest.approx(100)
    assert math.isnan(figures['per_class/absent'])


@pytest.mark.parametrize('eval_mode', ['area', '11points'])
@pytest.mark.parametrize('iou_thr', [0.5, 0.7])
def test_the_mean_over_the_classes_is_that_of_the_detectors_metric(eval_mode, iou_thr):
    generator = torch.Generator().manual_seed(0)
    classes = ('a', 'b', 'c')
    metric = metric_of(classes, eval_mode=eval_mode, iou_thr=iou_thr)
    host = VOCMetric(iou_thr, eval_mode=eval_mode)
    host.dataset_meta = metric.dataset_meta
    for _ in range(6):
        corners = 20.0 * torch.arange(8)
        labels = torch.randint(0, 3, (8,), generator=generator)
        truth = torch.stack([corners, corners, corners + 10, corners + 10, labels.float()], 1)
        moved = torch.rand(8, generator=generator) * 4
        said = torch.where(torch.rand(8, generator=generator) < 0.8, labels, (labels + 1) % 3)
        rows = [corners + moved, corners, corners + 10 + moved, corners + 10, said.float()]
        found = torch.stack([*rows, torch.rand(8, generator=generator)], 1)
        one = sample(instances(*truth.tolist()), instances(*found.tolist()), no_instances())
        metric.process({}, [one])
        host.process({}, [one])
    figures = list(metric.evaluate(6).values())
    mean = host.evaluate(6)['pascal_voc/mAP']
    assert len(set(figures)) == 3 and 0.1 < mean < 0.9
    assert sum(figures) / 3 == pytest.approx(mean)


def test_the_mean_over_the_classes_is_that_of_the_segmentors_metric():
    generator = torch.Generator().manual_seed(0)
    metric, host = metric_of(('a', 'b', 'c')), IoUMetric(prefix='host')
    host.dataset_meta = metric.dataset_meta
    for _ in range(3):
        truth = torch.randint(0, 3, (1, 8, 8), generator=generator)
        other = torch.randint(0, 3, (1, 8, 8), generator=generator)
        found = torch.where(torch.rand(1, 8, 8, generator=generator) < 0.6, truth, other)
        truth[0, :2] = 255
        one = dict(pred_sem_seg=dict(data=found), gt_sem_seg=dict(data=truth))
        metric.process({}, [one])
        host.process({}, [one])
    figures = list(metric.evaluate(3).values())
    assert sum(figures) / 3 == pytest.approx(host.evaluate(3)['host/mIoU'], abs=0.01)


def test_without_images_no_class_has_a_figure():
    assert math.isnan(metric_of(('a',)).evaluate(1)['per_class/a'])


def test_what_is_refused():
    metric = metric_of(('a', 'b'))
    several = dict(pred_score=torch.ones(2), gt_label=torch.tensor([0, 1]))
    for outputs in (several, dict(pred_depth_map=torch.ones(2))):
        with pytest.raises(ValueError, match='a classifier with one label for each image, but got'):
            metric.process({}, [outputs])
    with pytest.raises(ValueError, match='PerClassMetric needs the true boxes.*LoadAnnotations'):
        metric.process({}, [dict(pred_instances=no_instances())])
    with pytest.raises(ValueError, match='iou_thr must be a number in .0, 1., but got 0'):
        PerClassMetric(iou_thr=0)
    with pytest.raises(ValueError, match="eval_mode must be 'area' or '11points', but got 'mean'"):
        PerClassMetric(eval_mode='mean')
