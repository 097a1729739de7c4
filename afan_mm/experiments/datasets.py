"""What data a config has, each dataset read once."""

import json
from typing import Any, Dict, List, Tuple

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
        self._about: Dict[str, Tuple[int, str]] = {}
        self._ids: Dict[str, List[Any]] = {}

    def about(self, cfg: Config, dataset: dict) -> Tuple[int, str]:
        """The number of samples of a dataset and a digest of them, see
        :func:`~afan_mm.robustness.samples.describe`.
        """
        plain = without_pipelines(dataset)
        key = json.dumps(plain, sort_keys=True, default=str)
        if key not in self._about:
            self._about[key] = describe(self._build(cfg, plain))
        return self._about[key]

    def image_ids(self, cfg: Config, dataset: dict) -> List[Any]:
        """COCO's ``img_id`` of every sample."""
        plain = without_pipelines(dataset)
        key = json.dumps(plain, sort_keys=True, default=str)
        if key not in self._ids:
            built = self._build(cfg, plain)
            self._ids[key] = [built.get_data_info(i)['img_id'] for i in range(len(built))]
        return self._ids[key]

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
