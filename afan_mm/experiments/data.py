"""The data of a config: what they are, and which images serve selection and which the report.

Where the test set has other images than the validation set, selection uses the one and the report
the other. Where they share images, as in most configs, the validation set is split in two by a
fixed seed: settings chosen on one half are reported on the other.
"""

import copy
import json
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
from mmengine.config import Config

from ..utils.files import write_json
from .datasets import DataError, Datasets, without_pipelines
from .store import digest, file_digest

HALVES = ('selection', 'report', 'all')
SPLITS = ('half', 'none')
# of several datasets, by the key that would choose some of their images
INSTEAD = dict(
    selection="give the config a test set of its own, or selection=dict(split='none')",
    num_images='leave it out, and all images are measured',
)


class Evaluation:
    """The images that are measured, or chosen by.

    Args:
        datasets: Reads them.
        split: ``dict(split='half' | 'none', seed=0)``; 'none' lets both be the whole set.
        folder: For the annotation files of halves.
    """

    def __init__(self, datasets: Datasets, split: dict, folder: Path):
        if split.get('split') not in SPLITS:
            raise DataError(f'split must be one of {SPLITS}, but got {split.get("split")!r}')
        self.datasets, self.folder = datasets, folder
        self.in_two, self.seed = split['split'] == 'half', split.get('seed', 0)

    def images(self, cfg: Config, half: str) -> Tuple[dict, Any]:
        """The configs of the dataloader and the evaluator of 'selection', 'report' or 'all'."""
        if half not in HALVES:
            raise DataError(f'half must be one of {HALVES}, but got {half!r}')
        for kind in ('val', 'test'):
            if cfg.get(f'{kind}_dataloader') is None or cfg.get(f'{kind}_evaluator') is None:
                raise DataError(f'an experiment needs {kind}_dataloader and {kind}_evaluator')
        own_test = self._has_own_test(cfg)
        kind = 'test' if own_test and half == 'report' else 'val'
        loader, evaluator = (
            copy.deepcopy(cfg[f'{kind}_{part}']) for part in ('dataloader', 'evaluator')
        )
        if half != 'all' and not own_test and self.in_two:
            dataset = innermost(loader['dataset'])
            images = self._indices(cfg, dataset)
            dataset['indices'] = [images[i] for i in halves(len(images), self.seed)[half]]
            self._restrict_annotations(cfg, dataset, evaluator)
        return loader, evaluator

    def some(self, cfg: Config, loader: dict, evaluator: Any, num_images: int) -> Tuple[dict, Any]:
        """The configs of a dataloader and an evaluator for so many of their images, all where there
        are fewer, evenly spaced: the first ones of a folder for each class are all of one class.
        """
        loader, evaluator = copy.deepcopy(loader), copy.deepcopy(evaluator)
        dataset = innermost(loader['dataset'], 'num_images')
        images = self._indices(cfg, dataset)
        number = min(num_images, len(images))
        places = np.arange(number) * len(images) // number
        dataset['indices'] = [images[place] for place in places]
        self._restrict_annotations(cfg, dataset, evaluator)
        return loader, evaluator

    def where(self, cfg: Config, half: str) -> str:
        """In words, what :meth:`images` gives."""
        if half == 'report' and self._has_own_test(cfg):
            return 'the test set'
        if half == 'all' or self._has_own_test(cfg):
            return 'the validation set'
        if not self.in_two:
            return 'the whole validation set, by which settings may have been chosen'
        return f'the {half} half of the validation set'

    def _has_own_test(self, cfg: Config) -> bool:
        """Whether the test set has other images than the validation set, however both are written;
        one that is not there has.
        """
        val, test = (cfg[f'{kind}_dataloader'].dataset for kind in ('val', 'test'))
        if without_pipelines(val) == without_pipelines(test):
            return False
        try:
            return not self.datasets.share_images(cfg, val, test)
        except DataError:  # whoever measures on it is told
            return True

    def _indices(self, cfg: Config, dataset: dict) -> Sequence[int]:
        """The images of a dataset, by their places among all that its files have."""
        given = dataset.get('indices')
        if given is not None and not isinstance(given, int):
            return list(given)
        size, _ = self.datasets.about(cfg, {k: v for k, v in dataset.items() if k != 'indices'})
        every = range(size)
        if given is None:
            return every
        return every[:given] if given >= 0 else every[given:]  # as mmengine has it

    def _restrict_annotations(self, cfg: Config, dataset: dict, evaluator: Any) -> None:
        """Let COCO's and LVIS's metrics know only the images of a dataset: they count the objects
        of all images in their file, and would take those of the others as missed.
        """
        for metric in evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]:
            whole = metric.get('ann_file')
            if not whole or not any(kind in str(metric.get('type')) for kind in ('Coco', 'LVIS')):
                continue
            ids = set(self.datasets.image_ids(cfg, dataset))
            path = self.folder / f'{digest([file_digest(whole), sorted(ids, key=str)])}.json'
            if not path.exists():
                content = json.loads(Path(whole).read_text())
                for key, name in (('images', 'id'), ('annotations', 'image_id')):
                    content[key] = [each for each in content[key] if each[name] in ids]
                write_json(path, content)
            metric['ann_file'] = str(path)


def halves(size: int, seed: int) -> Dict[str, List[int]]:
    """The indices of both halves, sorted, drawn by the seed alone; an odd image goes to the
    report.
    """
    if size < 2:
        raise DataError(f'a set to be split must have at least 2 images, but has {size}')
    order = np.random.default_rng(seed).permutation(size)
    return dict(
        selection=sorted(order[: size // 2].tolist()), report=sorted(order[size // 2 :].tolist())
    )


def innermost(dataset: dict, chosen_by: str = 'selection') -> dict:
    """The one dataset inside wrappers such as RepeatDataset.

    Args:
        chosen_by: The key that asks for some of its images.

    Raises:
        DataError: If there are several.
    """
    dataset = unwrapped(dataset)
    if isinstance(dataset.get('datasets'), (list, tuple)):
        raise DataError(
            f'{chosen_by} cannot choose images of {dataset.get("type")}, which has several '
            f'datasets; {INSTEAD[chosen_by]}'
        )
    return dataset


def unwrapped(dataset: dict) -> dict:
    """What is inside wrappers of one dataset: that dataset, or a wrapper of several."""
    while isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    return dataset
