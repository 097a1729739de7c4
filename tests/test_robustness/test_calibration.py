"""Calibration error and likelihood, against numbers by hand and another formula."""

import math

import pytest
import torch
from mmengine.registry import METRICS

from afan_mm.robustness import CalibrationMetric, DetectionCalibrationMetric
from afan_mm.robustness.calibration import bin_counts


def classifier_samples(scores, labels):
    return [
        dict(pred_score=torch.tensor(score), gt_label=torch.tensor([label]))
        for score, label in zip(scores, labels)
    ]


def test_a_classifier_by_hand():
    metric = CalibrationMetric(num_bins=5)
    scores = [[0.9, 0.1], [0.85, 0.15], [0.3, 0.7], [0.35, 0.65]]
    metric.process({}, classifier_samples(scores, [0, 1, 1, 1]))
    # bin (0.8, 1]: confidence 1.75 of two, one right; bin (0.6, 0.8]: 1.35 of two, two right
    found = metric.evaluate(4)
    assert found['calibration/ece'] == pytest.approx((abs(1 - 1.75) + abs(2 - 1.35)) / 4)
    likelihoods = [0.9, 0.15, 0.7, 0.65]
    expected = -sum(math.log(each) for each in likelihoods) / 4
    assert found['calibration/nll'] == pytest.approx(expected, rel=1e-6)


def test_no_class_of_images_is_ignored():
    """Label 255 is that of ignored pixels only: ImageNet has a class of this number."""
    metric = CalibrationMetric()
    metric.process({}, classifier_samples([[1 / 256] * 256], [255]))
    assert metric.evaluate(1)['calibration/nll'] == pytest.approx(math.log(256))


def test_a_segmentor_is_judged_by_pixel_without_the_ignored():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    labels = torch.randint(0, 3, (2, 1, 4, 5), generator=generator)
    labels[0, 0, 0] = 255
    metric = METRICS.build(dict(type='CalibrationMetric'))
    for image, truth in zip(logits, labels):
        sample = dict(seg_logits=dict(data=image), gt_sem_seg=dict(data=truth))
        metric.process({}, [sample])
    found = metric.evaluate(2)
    expected = torch.nn.functional.cross_entropy(logits, labels[:, 0], ignore_index=255)
    assert found['calibration/nll'] == pytest.approx(float(expected), rel=1e-5)
    # by sorting each pixel into its bin, one at a time
    probabilities = logits.softmax(1).permute(0, 2, 3, 1).reshape(-1, 3)
    bins = {}
    for each, label in zip(probabilities, labels.flatten().tolist()):
        if label != 255:
            top = float(each.max())
            bins.setdefault(math.ceil(top * 15), []).append((top, int(each.argmax()) == label))
    gaps = [abs(sum(top for top, _ in b) - sum(right for _, right in b)) for b in bins.values()]
    assert found['calibration/ece'] == pytest.approx(sum(gaps) / 35, rel=1e-5)


def test_one_channel_with_a_sigmoid_is_two_classes():
    metric = CalibrationMetric()
    logit = torch.tensor([[[2.0, -1.0]]])
    sample = dict(seg_logits=dict(data=logit), gt_sem_seg=dict(data=torch.tensor([[[1, 1]]])))
    metric.process({}, [sample])
    expected = -torch.sigmoid(logit).log().mean()
    assert metric.evaluate(1)['calibration/nll'] == pytest.approx(float(expected), rel=1e-6)


def test_scores_of_masks_are_divided_by_their_sum():
    metric = CalibrationMetric(of_masks=True)
    scores = torch.tensor([[[0.6, 0.1]], [[0.2, 0.3]]])
    sample = dict(seg_logits=dict(data=scores), gt_sem_seg=dict(data=torch.tensor([[[0, 1]]])))
    metric.process({}, [sample])
    found = metric.evaluate(1)
    assert found['calibration/nll'] == pytest.approx(-math.log(0.75), rel=1e-6)
    assert found['calibration/ece'] == pytest.approx(0.25, rel=1e-6)


def test_the_edges_of_the_bins():
    log_probabilities = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64).log()
    count, confidence, correct = bin_counts(log_probabilities, torch.tensor([0, 0]), 2)
    assert count.tolist() == [1, 1] and confidence.tolist() == [0.5, 1.0]
    assert correct.tolist() == [1, 1]


def test_a_probability_of_zero_is_finite():
    metric = CalibrationMetric()
    metric.process({}, classifier_samples([[1.0, 0.0]], [1]))
    assert metric.evaluate(1)['calibration/nll'] == pytest.approx(-math.log(1e-12))


def test_outputs_of_a_detector_are_refused():
    with pytest.raises(ValueError, match=r"outputs of a segmentor or .* got \['pred_instances'\]"):
        CalibrationMetric().process({}, [dict(pred_instances={})])
    with pytest.raises(ValueError, match='num_bins must be an integer >= 1, but got 0'):
        CalibrationMetric(num_bins=0)


def test_an_evaluation_of_nothing_is_nan():
    """As where every pixel is ignored."""
    sample = dict(
        seg_logits=dict(data=torch.ones(3, 1, 2)), gt_sem_seg=dict(data=torch.full((1, 1, 2), 255))
    )
    for samples in ([], [sample]):
        metric = CalibrationMetric()
        metric.process({}, samples)
        found = metric.evaluate(1)
        assert math.isnan(found['calibration/ece']) and math.isnan(found['calibration/nll'])
    assert math.isnan(DetectionCalibrationMetric().evaluate(1)['calibration/d_ece'])


@pytest.mark.parametrize('label', (254, -100))
def test_the_ignored_label_of_the_decode_head(label):
    sample = dict(
        seg_logits=dict(data=torch.ones(3, 1, 2)),
        gt_sem_seg=dict(data=torch.tensor([[[1, label]]])),
    )
    metric = CalibrationMetric(ignore_index=label)
    metric.process({}, [sample])
    assert metric.evaluate(1)['calibration/nll'] == pytest.approx(math.log(3))
    message = f"ignore_index .* must be the decode head's, .* from 0 to 2, but got a label {label} "
    with pytest.raises(ValueError, match=message + 'with ignore_index=255'):
        CalibrationMetric().process({}, [sample])
