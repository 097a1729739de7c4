"""What data a config has, each dataset read once."""

import json
import os
from typing import Any, Callable, Dict, List, Set, Tuple

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope

from ..robustness.samples import describe
from ..utils.errors import UsageError

# A dataset that draws its samples by the run's seed must have one digest.
ANY_SEED = 67280421310721


class DataError(UsageError):
    """The data of a config cannot be read or split; one line says why."""


class Datasets:
    """Datasets of configs without their pipelines; what is known of each is read once."""

    def __init__(self) -> None:
        self._found: Dict[Tuple[str, str], Any] = {}

    def about(self, cfg: Config, dataset: dict) -> Tuple[int, str]:
        """The number of samples of a dataset and a digest of them, see
        :func:`~afan_mm.robustness.samples.describe`.
        """
        return self._look(describe, cfg, dataset)

    def image_ids(self, cfg: Config, dataset: dict) -> List[Any]:
        """COCO's ``img_id`` of every sample."""
        return self._look(image_ids, cfg, dataset)

    def share_images(self, cfg: Config, one: dict, other: dict) -> bool:
        """Whether two datasets have an image in common: a file, or all of them, as where one is a
        copy of the other or holds arrays.
        """
        if self._look(image_files, cfg, one) & self._look(image_files, cfg, other):
            return True
        size, found = self.about(cfg, one)
        size_is_all = (size, found) == describe(range(size))
        return not size_is_all and (size, found) == self.about(cfg, other)

    def _look(self, look: Callable[[Any], Any], cfg: Config, dataset: dict) -> Any:
        plain = without_pipelines(dataset)
        key = (look.__name__, json.dumps(plain, sort_keys=True, default=str))
        if key not in self._found:
            self._found[key] = look(self._build(cfg, plain))
        return self._found[key]

    def _build(self, cfg: Config, plain: dict) -> BaseDataset:
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(ANY_SEED)
                dataset = DATASETS.build(plain)
                if hasattr(dataset, 'full_init'):
                    dataset.full_init()
        except Exception as error:  # datasets raise many types for a missing file
            raise DataError(
                f'cannot read the data of {plain.get("type")} '
                f'({plain.get("data_root") or plain.get("ann_file")}): '
                f'{type(error).__name__}: {str(error).strip()}'
            ) from error
        return dataset


def image_ids(dataset: BaseDataset) -> List[Any]:
    return [dataset.get_data_info(index)['img_id'] for index in range(len(dataset))]


def image_files(dataset: Any) -> Set[str]:
    """The files of the images; of a dataset that says nothing of such, none."""
    if not hasattr(dataset, 'get_data_info'):
        return set()
    samples = (dataset.get_data_info(index) for index in range(len(dataset)))
    return {os.path.realpath(each['img_path']) for each in samples if 'img_path' in each}


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
