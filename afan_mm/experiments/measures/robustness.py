"""The metrics on perturbed and on corrupted images."""

import json
import os.path as osp
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from ..data import Evaluation
from ..datasets import Datasets
from .base import Trained, measure


@measure
def robust(trained: Trained, num_images: Optional[int] = None, **attack: Any) -> Dict[str, float]:
    """Clean and robust metrics of :class:`~afan_mm.robustness.RobustTestLoop`.

    Args:
        num_images: So many, evenly spaced. Defaults to None, all.
        attack: Keys of the loop.
    """
    loader, evaluator = some_images(trained, num_images)
    return trained.evaluate(loader, evaluator, test_cfg=dict(attack, type='RobustTestLoop'))


@measure
def corruptions(
    trained: Trained, num_images: Optional[int] = None, **settings: Any
) -> Dict[str, Any]:
    """``mPC``, ``rPC`` and ``clean`` of :class:`~afan_mm.robustness.CorruptionTestLoop`; its other
    figures are details.

    Args:
        num_images: So many, evenly spaced. Defaults to None, all.
        settings: Keys of the loop: corruptions, severities, metric.
    """
    loader, evaluator = some_images(trained, num_images)
    trained.evaluate(loader, evaluator, test_cfg=dict(settings, type='CorruptionTestLoop'))
    with open(osp.join(trained.runner.work_dir, 'corruptions.json')) as file:
        found = json.load(file)
    means, metric = found['summary'], found['metric']
    figures = dict(mPC=means['mPC'], rPC=means['rPC'], clean=found['clean'][metric])
    return dict(figures, details=found)


def some_images(trained: Trained, num_images: Optional[int]) -> Tuple[dict, Any]:
    """The configs of the dataloader and the evaluator, of so many images."""
    if num_images is None:
        return trained.loader, trained.evaluator
    images = Evaluation(Datasets(), dict(split='none'), Path(trained.runner.work_dir))
    return images.some(trained.cfg, trained.loader, trained.evaluator, num_images)
