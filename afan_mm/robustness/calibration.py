"""Expected calibration error and negative log-likelihood of classifiers and segmentors."""

from typing import Any, Dict, List, Sequence, Tuple

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor

SMALLEST = 1e-12  # probability, as classifiers store probabilities in float32 and they may be 0


@METRICS.register_module()
class CalibrationMetric(BaseMetric):
    """How far a model's confidence is from its accuracy.

    ``ece``, a fraction: the top label's confidence in ``num_bins`` equal bins of (0, 1], the mean
    of abs(accuracy - confidence) weighted by what is in each bin (Guo et al. 2017, Eq. 3). ``nll``:
    the mean negative log-probability of the true class, in nats. A classifier is judged by image, a
    segmentor by pixel, without those it ignores. Both are NaN where nothing counts.

    Args:
        num_bins: Defaults to 15.
        ignore_index: Label of pixels that do not count, as in the model's decode head; any label of
            an image counts. Defaults to 255.
        of_masks: Whether the segmentor classifies masks, as MaskFormer and Mask2Former do: what it
            gives is no logits but the sum of its masks' probabilities for each class, which is
            divided by that over the classes. Defaults to False.
        kwargs: Of mmengine's ``BaseMetric``.
    """

    default_prefix = 'calibration'

    def __init__(
        self, num_bins: int = 15, ignore_index: int = 255, of_masks: bool = False, **kwargs: Any
    ):
        super().__init__(**kwargs)
        check_bins(num_bins)
        self.num_bins, self.ignore_index, self.of_masks = num_bins, ignore_index, of_masks

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count one batch; what is kept of an image is its bins."""
        for sample in data_samples:
            log_probabilities, labels = self._outputs(sample)
            bins = bin_counts(log_probabilities, labels, self.num_bins)
            nll = -log_probabilities.gather(1, labels[:, None]).double().sum()
            self.results.append((bins, float(nll)))

    def compute_metrics(self, results: List[Tuple[Tensor, float]]) -> Dict[str, float]:
        """Over all images."""
        bins = sum_of([bins for bins, _ in results], self.num_bins)
        total = float(bins[0].sum())
        nll = sum(nll for _, nll in results) / total if total else float('nan')
        return dict(ece=calibration_error(bins), nll=nll)

    def _outputs(self, sample: dict) -> Tuple[Tensor, Tensor]:
        """Log-probabilities (N, C) and labels (N,) of what counts."""
        if 'seg_logits' in sample:
            logits = sample['seg_logits']['data'].float()
            labels = sample['gt_sem_seg']['data'].to(logits.device).long().flatten()
            if self.of_masks:
                logits = logits.clamp(min=SMALLEST).log()  # the softmax divides by the sum
            if len(logits) == 1:  # one channel with a sigmoid for two classes
                logits = torch.cat([torch.zeros_like(logits), logits])
            keep = labels != self.ignore_index
            self._check(labels[keep], len(logits))
            return logits.flatten(1).T[keep].log_softmax(1), labels[keep]
        if 'pred_score' in sample and len(sample.get('gt_label', ())) == 1:
            probabilities = sample['pred_score'].double()[None]
            labels = sample['gt_label'].to(probabilities.device).long()
            return probabilities.clamp(min=SMALLEST).log(), labels
        raise ValueError(
            'CalibrationMetric needs the outputs of a segmentor or of a classifier with one label '
            f'for each image, but got {sorted(sample)}'
        )

    def _check(self, labels: Tensor, num_classes: int) -> None:
        wrong = labels[(labels < 0) | (labels >= num_classes)]
        if len(wrong):
            raise ValueError(
                "ignore_index of CalibrationMetric must be the decode head's, and all other labels "
                f'from 0 to {num_classes - 1}, but got a label {int(wrong[0])} with '
                f'ignore_index={self.ignore_index}'
            )


def check_bins(num_bins: int) -> None:
    """Raise where it is no number of bins."""
    if num_bins < 1:
        raise ValueError(f'num_bins must be an integer >= 1, but got {num_bins!r}')


def bin_counts(log_probabilities: Tensor, labels: Tensor, num_bins: int) -> Tensor:
    """:func:`counted` for the top label of each row."""
    top, predicted = log_probabilities.max(1)
    return counted(top.exp(), predicted == labels, num_bins)


def counted(confidence: Tensor, right: Tensor, num_bins: int) -> Tensor:
    """Of each bin the number, the sum of confidences, and the number that are right: (3, num_bins),
    on the CPU.

    Args:
        confidence: (N,), in [0, 1].
        right: (N,), boolean.
        num_bins: Of equal width; each includes its upper edge.
    """
    confidence = confidence.double()
    index = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    rows = (torch.ones_like(confidence), confidence, right.double())
    return torch.stack([torch.bincount(index, row, minlength=num_bins) for row in rows]).cpu()


def sum_of(bins: List[Tensor], num_bins: int) -> Tensor:
    """What :func:`counted` gave of all images together; zeros where there is none."""
    return torch.stack(bins).sum(0) if bins else torch.zeros(3, num_bins, dtype=torch.float64)


def calibration_error(bins: Tensor) -> float:
    """The mean of abs(accuracy - confidence) over what :func:`counted` gave; NaN for nothing."""
    count, confidence, right = bins
    total = float(count.sum())
    return float((right - confidence).abs().sum()) / total if total else float('nan')
