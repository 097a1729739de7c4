"""A part of a data set that the run's seed chooses."""

from typing import Optional

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import broadcast_object_list
from mmengine.registry import DATASETS


@DATASETS.register_module(name='SeededSubset')
def seeded_subset(
    dataset: dict, num_samples: int, balanced: bool = False, seed: Optional[int] = None
) -> BaseDataset:
    """The stock data set, cut to samples drawn at random without replacement.

    Args:
        dataset: Config of a data set derived from mmengine's ``BaseDataset``.
        num_samples: Samples to keep.
        balanced: Whether every class has the same number of them, by ``get_cat_ids``, which must
            give one class a sample. Defaults to False.
        seed: Of the draw. Defaults to None, the run's own (``randomness.seed``), so that runs of
            the same seed train on the same samples and those of another on others.

    Raises:
        ValueError: Where there are too few samples, or ``num_samples`` is no multiple of the
            classes.
    """
    with DATASETS.switch_scope_and_registry(None) as registry:
        built = registry.build(dataset)
    built.full_init()
    draw = np.random.RandomState((_seed_of_run() if seed is None else seed) % 2**32)
    groups = _classes(built) if balanced else [np.arange(len(built))]
    each, rest = divmod(num_samples, len(groups))
    smallest = min(len(group) for group in groups)
    if rest or not 0 < each <= smallest:
        per = ' for each class' if balanced else ''
        raise ValueError(
            f'num_samples must be a multiple of {len(groups)}, at least 1 and at most {smallest}'
            f'{per}, but got {num_samples}'
        )
    chosen = np.concatenate([draw.permutation(group)[:each] for group in groups])
    built.get_subset_(sorted(chosen.tolist()))
    return built


def _seed_of_run() -> int:
    """mmengine's Runner seeds torch before it builds anything, and with ``diff_rank_seed`` each
    process by another number: that of the first is that of all.
    """
    seeds = [torch.initial_seed()]
    broadcast_object_list(seeds)
    return seeds[0]


def _classes(dataset: BaseDataset) -> list:
    """Indices of each class's samples."""
    labels = [dataset.get_cat_ids(index) for index in range(len(dataset))]
    if any(len(label) != 1 for label in labels):
        raise ValueError('balanced=True needs a data set with one class for each sample')
    labels = np.array(labels)[:, 0]
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]
