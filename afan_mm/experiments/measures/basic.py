"""The host's own metrics, the robust ones, and what the training took."""

import copy
from typing import Any, Dict, Optional

from ..data import innermost
from .base import Trained, measure


@measure
def stock(trained: Trained) -> Dict[str, float]:
    """The metrics of the config's evaluator, under their own names."""
    return trained.evaluate()


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
def cost(trained: Trained) -> Dict[str, float]:
    """Training time in seconds and peak memory in MiB; the report relates them to stock."""
    return {key: trained.training[key] for key in ('seconds', 'cpu_seconds', 'memory')}


def first_images(loader: dict, num_images: Optional[int]) -> dict:
    """A dataloader config that stops after so many images."""
    loader = copy.deepcopy(loader)
    if num_images is not None:
        dataset = innermost(loader['dataset'])
        indices = dataset.get('indices')
        dataset['indices'] = num_images if indices is None else list(indices)[:num_images]
    return loader
