"""A detector's calibration error, against numbers by hand and another formula."""

import math

import pytest
import torch
from mmengine.registry import METRICS

from afan_mm.robustness import DetectionCalibrationMetric
from support.detections import instances, no_instances, sample


def test_by_hand():
    first = sample(
        instances((0, 0, 10, 10, 0), (20, 20, 30, 30, 1)),
        instances(
            (0, 0, 10, 10, 0, 0.9),  # right
            (0, 0, 10, 9, 0, 0.75),  # the object is taken already
            (0, 0, 10, 10, 1, 0.65),  # another class
            (20, 20, 30, 25, 1, 0.55),  # right: an IoU of just 0.5
            (50, 50, 60, 60, 0, 0.95),  # does not count
        ),
        instances((50, 50, 60, 60, 0)),
    )
    second = sample(no_instances(), instances((0, 0, 5, 5, 0, 0.3)))  # nothing there
    metric = DetectionCalibrationMetric(num_bins=5)
    metric.process({}, [first])
    metric.process({}, [second])
    # (0.8, 1]: 0.9 of one, right; (0.6, 0.8]: 1.4 of two, none; (0.4, 0.6]: 0.55 of one, right;
    # (0.2, 0.4]: 0.3 of one, none
    expected = (abs(1 - 0.9) + abs(0 - 1.4) + abs(1 - 0.55) + abs(0 - 0.3)) / 5
    assert metric.evaluate(2) == {'calibration/d_ece': pytest.approx(expected)}


def test_another_threshold_and_a_detection_between_two_objects():
    truth = instances((0, 0, 10, 10, 0), (0, 4, 10, 14, 0))
    between = (0, 1, 10, 11, 0, 0.6)  # IoU 9/11 with the first, 7/13 with the second
    for iou_thr, right in ((0.5, 1), (0.82, 0)):
        metric = DetectionCalibrationMetric(iou_thr=iou_thr)
        metric.process({}, [sample(truth, instances(between))])
        assert metric.evaluate(1)['calibration/d_ece'] == pytest.approx(abs(right - 0.6))


def test_against_a_count_of_one_detection_at_a_time():
    """Objects that do not overlap, and detections that are each on one of them or on none."""
    generator = torch.Generator().manual_seed(0)
    metric = METRICS.build(dict(type='DetectionCalibrationMetric'))
    bins, num = {}, 0
    for _ in range(4):
        corners = 20.0 * torch.arange(6)
        labels = torch.randint(0, 3, (6,), generator=generator)
        truth = torch.stack([corners, corners, corners + 10, corners + 10, labels.float()], 1)
        scores = torch.rand(6, generator=generator)
        moved = torch.rand(6, generator=generator) * 6  # to the right
        said = torch.where(torch.rand(6, generator=generator) < 0.8, labels, (labels + 1) % 3)
        found = torch.stack(
            [corners + moved, corners, corners + 10 + moved, corners + 10, said.float(), scores], 1
        )
        metric.process({}, [sample(instances(*truth.tolist()), instances(*found.tolist()))])
        for score, shift, hit in zip(scores.tolist(), moved.tolist(), (said == labels).tolist()):
            right = hit and (10 - shift) / (10 + shift) >= 0.5
            bins.setdefault(math.ceil(score * 15), []).append((score, right))
            num += 1
    gaps = [abs(sum(s for s, _ in b) - sum(right for _, right in b)) for b in bins.values()]
    assert metric.evaluate(4)['calibration/d_ece'] == pytest.approx(sum(gaps) / num, rel=1e-5)


def test_a_detector_that_finds_nothing_has_no_figure():
    metric = DetectionCalibrationMetric()
    metric.process({}, [sample(instances((0, 0, 10, 10, 0)), no_instances())])
    assert math.isnan(metric.evaluate(1)['calibration/d_ece'])


def test_what_is_refused():
    with pytest.raises(
        ValueError, match=r"needs the outputs of a detector .* got \['pred_score'\]"
    ):
        DetectionCalibrationMetric().process({}, [dict(pred_score=torch.ones(2))])
    # a test pipeline that loads no annotations, as those for COCO's own evaluation
    with pytest.raises(ValueError, match='LoadAnnotations'):
        DetectionCalibrationMetric().process({}, [dict(pred_instances=no_instances())])
    with pytest.raises(ValueError, match='iou_thr must be a number in .0, 1., but got 0'):
        DetectionCalibrationMetric(iou_thr=0)
    with pytest.raises(ValueError, match='num_bins must be an integer >= 1, but got 0'):
        DetectionCalibrationMetric(num_bins=0)
