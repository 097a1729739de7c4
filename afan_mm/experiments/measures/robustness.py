"""The metrics on perturbed and on corrupted images."""

import copy
import json
import os.path as osp
from typing import Any, Dict, Optional

from ..data import innermost
from .base import Trained, measure


@measure
def robust(trained: Trained, num_images: Optional[int] = None, **attack: Any) -> Dict[str, float]:
    """Clean and robust metrics of :class:`~afan_mm.robustness.RobustTestLoop`.

    Args:
        num_images: The first so many images. Defaults to None, all.
        attack: Keys of the loop.
    """
    loader = first_images(trained.loader, num_images)
    return trained.evaluate(loader, test_cfg=dict(attack, type='RobustTestLoop'))


@measure
def corruptions(
    trained: Trained, num_images: Optional[int] = None, **settings: Any
) -> Dict[str, Any]:
    """``mPC``, ``rPC`` and ``clean`` of :class:`~afan_mm.robustness.CorruptionTestLoop`; its other
    figures are details.

    Args:
        num_images: The first so many images. Defaults to None, all.
        settings: Keys of the loop: corruptions, severities, metric.
    """
    loader = first_images(trained.loader, num_images)
    trained.evaluate(loader, test_cfg=dict(settings, type='CorruptionTestLoop'))
    with open(osp.join(trained.runner.work_dir, 'corruptions.json')) as file:
        found = json.load(file)
    means, metric = found['summary'], found['metric']
    figures = dict(mPC=means['mPC'], rPC=means['rPC'], clean=found['clean'][metric])
    return dict(figures, details=found)


def first_images(loader: dict, num_images: Optional[int]) -> dict:
    """A dataloader config that stops after so many images."""
    loader = copy.deepcopy(loader)
    if num_images is not None:
        dataset = innermost(loader['dataset'])
        indices = dataset.get('indices')
        dataset['indices'] = num_images if indices is None else list(indices)[:num_images]
    return loader
