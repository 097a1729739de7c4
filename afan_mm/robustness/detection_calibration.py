"""Calibration error of detectors."""

from typing import Any, Dict, Iterator, List, Sequence, Tuple

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor

from .calibration import calibration_error, check_bins, counted, sum_of


@METRICS.register_module()
class DetectionCalibrationMetric(BaseMetric):
    """How far a detector's confidence is from its precision.

    ``d_ece``, a fraction: the detections by score in ``num_bins`` equal bins of (0, 1], the mean of
    abs(precision - confidence) weighted by what is in each bin; NaN without a detection. It is the
    detection calibration error of Kueppers et al. 2020 over the confidence alone, without the
    position and size of the box. A detection is right if it has an IoU of at least ``iou_thr`` with
    an object of its class that none of a higher score has taken, as in PASCAL VOC's evaluation
    (matched by mmdet). Detections of an object that is to be ignored do not count. Whatever the
    model returns counts, after its own score threshold and suppression: compare models with the
    same ``test_cfg``.

    The test pipeline must load the boxes, in the frame of the original image, as it does for
    ``VOCMetric``.

    Args:
        num_bins: Defaults to 15.
        iou_thr: In (0, 1]. Defaults to 0.5.
        kwargs: Of mmengine's ``BaseMetric``.
    """

    default_prefix = 'calibration'

    def __init__(self, num_bins: int = 15, iou_thr: float = 0.5, **kwargs: Any):
        super().__init__(**kwargs)
        check_bins(num_bins)
        if not 0 < iou_thr <= 1:
            raise ValueError(f'iou_thr must be a number in (0, 1], but got {iou_thr!r}')
        self.num_bins, self.iou_thr = num_bins, iou_thr

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count one batch; what is kept of an image is its bins."""
        for sample in data_samples:
            scores, right = self._judged(sample)
            self.results.append(counted(scores, right, self.num_bins))

    def compute_metrics(self, results: List[Tensor]) -> Dict[str, float]:
        """Over all images."""
        return dict(d_ece=calibration_error(sum_of(results, self.num_bins)))

    def _judged(self, sample: dict) -> Tuple[Tensor, Tensor]:
        """The scores of the detections that count, and which are right."""
        from mmdet.evaluation.functional.mean_ap import tpfp_default  # only for detectors

        check_boxes(sample, type(self).__name__)
        scores, right = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)]
        for found, truth, ignored in self._by_class(sample):
            true, false = tpfp_default(found, truth, ignored, self.iou_thr)
            counts = (true + false)[0] > 0
            scores.append(torch.from_numpy(found[counts, 4]))
            right.append(torch.from_numpy(true[0][counts] > 0))
        return torch.cat(scores), torch.cat(right)

    @staticmethod
    def _by_class(sample: dict) -> Iterator[Tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each class that was detected the boxes with their scores (m, 5), the objects (n, 4)
        and those that are to be ignored (k, 4).
        """
        detected = sample['pred_instances']
        rows = torch.cat([detected['bboxes'], detected['scores'][:, None]], 1).cpu().float().numpy()
        labels = detected['labels'].cpu().numpy()
        for label in np.unique(labels):
            yield (
                rows[labels == label],
                _boxes_of(sample['gt_instances'], label),
                _boxes_of(sample.get('ignored_instances') or {}, label),
            )


def check_boxes(sample: dict, metric: str) -> None:
    """Raise where a test sample has no found or no true boxes.

    Args:
        sample: As a metric is given it.
        metric: Who needs them.
    """
    if 'pred_instances' not in sample:
        raise ValueError(
            f'{metric} needs the outputs of a detector with boxes, but got {sorted(sample)}'
        )
    if 'bboxes' not in sample.get('gt_instances', ()):
        raise ValueError(
            f'{metric} needs the true boxes of the image, but the test pipeline loads none; add '
            "dict(type='LoadAnnotations', with_bbox=True) before PackDetInputs"
        )


def _boxes_of(objects: dict, label: int) -> np.ndarray:
    if 'bboxes' not in objects:
        return np.zeros((0, 4), np.float32)
    return objects['bboxes'][objects['labels'] == label].cpu().float().numpy().reshape(-1, 4)
