"""The library's own metrics, the calibration of the same outputs, and what the training took."""

import math
from typing import Dict

from .base import MEASURED, PER_CLASS, Trained, measure


@measure
def stock(trained: Trained) -> Dict[str, float]:
    """The metrics of the config's evaluator, under their own names; calibration has measures of its
    own, with these names.
    """
    others = ('calibration/', f'{MEASURED}/')
    return {k: v for k, v in trained.clean().items() if not k.startswith(others)}


@measure
def calibration(trained: Trained) -> Dict[str, float]:
    """Expected calibration error, see :class:`~afan_mm.robustness.CalibrationMetric`; not for
    detectors.
    """
    return dict(ece=trained.clean()[f'{MEASURED}/ece'])


@measure
def detection_calibration(trained: Trained) -> Dict[str, float]:
    """Calibration error of a detector's scores, see
    :class:`~afan_mm.robustness.DetectionCalibrationMetric`.
    """
    return dict(d_ece=trained.clean()[f'{MEASURED}/d_ece'])


@measure
def per_class(trained: Trained) -> Dict[str, float]:
    """A metric of each class that the images have, under its name, see
    :class:`~afan_mm.robustness.PerClassMetric`.
    """
    found = trained.clean().items()
    each = {k[len(PER_CLASS) + 1 :]: v for k, v in found if k.startswith(f'{PER_CLASS}/')}
    return {name: figure for name, figure in each.items() if not math.isnan(figure)}


@measure
def nll(trained: Trained) -> Dict[str, float]:
    """The mean negative log-likelihood on the images, the cross-entropy without weights and
    smoothing; not for detectors.
    """
    return dict(nll=trained.clean()[f'{MEASURED}/nll'])


@measure
def cost(trained: Trained) -> Dict[str, float]:
    """Training time in seconds and peak memory in MiB; the report relates them to stock."""
    return {key: trained.training[key] for key in ('seconds', 'cpu_seconds', 'memory')}
