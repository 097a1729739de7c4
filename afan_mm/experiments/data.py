"""The data of a config: what they are, and which images serve selection and which the report.

Where the test set is another than the validation set, selection uses the one and the report the
other. Where it is the same, as in most configs, the validation set is split in two by a fixed seed:
settings chosen on one half are reported on the other.
"""

import copy
import hashlib
import json
import os
from typing import Any, Dict, List, Tuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.utils import import_modules_from_strings

HALVES = ('selection', 'report', 'all')
SPLITS = ('half', 'none')


class DataError(ValueError):
    """The data of a config cannot be read or split; one line says why."""


class Datasets:
    """Datasets of configs, each read once, without their pipelines."""

    def __init__(self) -> None:
        self._about: Dict[str, Tuple[int, str]] = {}

    def about(self, cfg: Config, dataset: dict) -> Tuple[int, str]:
        """The number of samples of a dataset, and a digest of its annotations and of the names and
        sizes of its files; not of the times at which they were written.
        """
        plain = without_pipelines(dataset)
        key = json.dumps(plain, sort_keys=True, default=str)
        if key not in self._about:
            prepare_registry(cfg)
            try:
                self._about[key] = _read(plain)
            except Exception as error:  # datasets raise many types for a missing file
                raise DataError(
                    f'cannot read the data of {dataset.get("type")} '
                    f'({dataset.get("data_root") or dataset.get("ann_file")}): '
                    f'{type(error).__name__}: {str(error).strip()}'
                ) from error
        return self._about[key]

    def evaluation(self, cfg: Config, half: str, split: dict) -> Tuple[dict, Any]:
        """The dataloader and the evaluator of 'selection', 'report' or 'all' of the images.

        Args:
            split: ``dict(split='half' | 'none', seed=0)``; 'none' lets both be the whole set.
        """
        if half not in HALVES:
            raise DataError(f'half must be one of {HALVES}, but got {half!r}')
        if split.get('split') not in SPLITS:
            raise DataError(f'split must be one of {SPLITS}, but got {split.get("split")!r}')
        for kind in ('val', 'test'):
            if cfg.get(f'{kind}_dataloader') is None or cfg.get(f'{kind}_evaluator') is None:
                raise DataError(f'an experiment needs {kind}_dataloader and {kind}_evaluator')
        own_test = without_pipelines(cfg.val_dataloader.dataset) != without_pipelines(
            cfg.test_dataloader.dataset
        )
        kind = 'test' if own_test and half == 'report' else 'val'
        loader, evaluator = (
            copy.deepcopy(cfg[f'{kind}_{part}']) for part in ('dataloader', 'evaluator')
        )
        if half != 'all' and not own_test and split['split'] == 'half':
            dataset = innermost(loader['dataset'])
            size, _ = self.about(cfg, dataset)
            dataset['indices'] = halves(size, split.get('seed', 0))[half]
            evaluator = _without_annotation_file(evaluator)
        return loader, evaluator


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


def innermost(dataset: dict) -> dict:
    """The dataset inside wrappers such as RepeatDataset."""
    while isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    if isinstance(dataset.get('datasets'), (list, tuple)):
        raise DataError(
            f'{dataset.get("type")} of several datasets cannot be split; give the config a test '
            "set of its own, or selection=dict(split='none')"
        )
    return dataset


def without_pipelines(node: Any) -> Any:
    """A plain copy of a dataset config with empty pipelines."""
    if isinstance(node, dict):
        return {
            key: [] if key == 'pipeline' else without_pipelines(value)
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        return [without_pipelines(each) for each in node]
    return node


def prepare_registry(cfg: Config) -> None:
    """Import what a config imports, and make its scope the default one."""
    if cfg.get('custom_imports'):
        import_modules_from_strings(**cfg.custom_imports)
    init_default_scope(cfg.get('default_scope', 'mmengine'))


def _read(config: dict) -> Tuple[int, str]:
    dataset = DATASETS.build(config)
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    digest = hashlib.sha256()
    if not hasattr(dataset, 'get_data_info'):
        digest.update(repr(config).encode())
        return len(dataset), digest.hexdigest()
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        digest.update(json.dumps(_describe(info), sort_keys=True, default=str).encode())
    return len(dataset), digest.hexdigest()


def _describe(node: Any) -> Any:
    """What a sample is, without where it lies: of a file its name and size."""
    if isinstance(node, dict):
        return {str(key): _describe(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_describe(each) for each in node]
    if isinstance(node, np.ndarray):
        return node.tolist()
    if isinstance(node, str) and os.sep in node:
        size = os.path.getsize(node) if os.path.isfile(node) else None
        return [os.path.basename(node), size]
    return node


def _without_annotation_file(evaluator: Any) -> Any:
    """An evaluator that takes the ground truth from the samples: COCO's would count the objects of
    images that are not in this half as missed.
    """
    metrics = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]
    for metric in metrics:
        if 'Coco' in str(metric.get('type')) and metric.get('ann_file'):
            raise DataError(
                'a CocoMetric with an ann_file cannot evaluate half of it; give the config a test '
                "set of its own, or selection=dict(split='none')"
            )
    return evaluator
