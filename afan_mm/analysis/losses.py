"""A model's own loss on batches that stay the same, as a function of its weights alone."""

import copy
import math
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence

import torch
from mmengine.runner import Runner
from torch import Tensor, nn

from ..isolation import evaluation_mode, flow_modules, isolated_random
from ..utils.checks import check_integer
from ..utils.configs import type_name
from .digests import digest


class FixedLosses:
    """The training objective of a model on fixed batches.

    The model is in evaluation mode (batch norm uses its running statistics, nothing is dropped),
    and what the host draws at random, such as the RoIs of a detector, is drawn from the same seed
    in every call. Two calls at the same weights therefore give the same number. A-FAN components
    act as the stock ones: this is the clean loss, for a stock model and for one trained with A-FAN.

    Args:
        model: The host. Its ``parse_losses`` turns a dict of losses into the objective.
        batches: As from a data loader, with ground truth; see :func:`take_batches`.
        seed: Of the draws. Defaults to 0.
        about: What else the loss depends on that neither the weights nor the batches show, such as
            the model's config with the settings of its losses; part of :meth:`digest`. Defaults to
            None.

    Attributes:
        num_images: In all batches.
        weights: Share of each batch in the mean, by its number of images.
    """

    def __init__(self, model: nn.Module, batches: Sequence[dict], seed: int = 0, about: Any = None):
        if not batches:
            raise ValueError('batches must hold at least one batch, but got none')
        self.model = model
        self.batches = list(batches)
        self.seed, self.about = seed, about
        sizes = [count_images(batch) for batch in self.batches]
        self.num_images = sum(sizes)
        self.weights = [size / self.num_images for size in sizes]

    def __len__(self) -> int:
        return len(self.batches)

    @contextmanager
    def evaluating(self) -> Iterator['FixedLosses']:
        """The mode in which :meth:`__call__` works; the model is afterwards as before."""
        with evaluation_mode(self.model, flow_modules(self.model)):
            yield self

    def __call__(self, index: int) -> Tensor:
        """The objective on one batch: a 0-dim tensor, with its graph where gradients are on."""
        device = next(self.model.parameters()).device
        with isolated_random(self.seed + index, device):
            data = self.model.data_preprocessor(copy.deepcopy(self.batches[index]), True)
            return self.model.parse_losses(self.model._run_forward(data, mode='loss'))[0]

    @torch.no_grad()
    def mean(self) -> float:
        """The objective over all batches, weighted by their images; inf or nan as it comes."""
        return math.fsum(weight * float(self(index)) for index, weight in enumerate(self.weights))

    def digest(self) -> str:
        """Of the images with their annotations, the seed and what the loss is: whether two runs
        look at the same loss.
        """
        return digest(self.seed, self.about, self.batches)


def count_images(batch: dict) -> int:
    return len(batch['inputs'])


def take_batches(dataloader: dict, count: Optional[int] = None, seed: int = 0) -> List[dict]:
    """The first batches of a data loader, with all that its pipeline draws at random drawn from one
    seed.

    Args:
        dataloader: Its config, as in ``cfg.train_dataloader``.
        count: How many. Defaults to None, one epoch: every image once, if the sampler says so.
        seed: Of the sampler and the pipeline. Defaults to 0.

    Raises:
        ValueError: If count is no integer >= 1, or there is no data.
    """
    if count is not None:
        check_integer('count', count, least=1)
    # Workers would have random streams of their own.
    plain = dict(copy.deepcopy(dataloader), num_workers=0, persistent_workers=False)
    with isolated_random(seed, torch.device('cpu')):
        loader = Runner.build_dataloader(plain, seed=seed)
        if count is None:
            count = math.ceil(len(loader.dataset) / (loader.batch_size or 1))
        batches = [copy.deepcopy(batch) for batch, _ in zip(loader, range(count))]
    if not batches:
        raise ValueError('the data loader must give at least one batch, but it gave none')
    return batches


def annotated(dataloader: dict, batch_size: int = 1) -> dict:
    """A data loader for evaluation as a loss needs it: annotations are loaded before the image is
    resized, so that both have one frame; and in an order drawn from the seed, so that the first
    images are a fair sample of data that is sorted by class.

    Args:
        dataloader: The config, as in ``cfg.val_dataloader``; it is not modified.
        batch_size: Defaults to 1, so that each loss is that of one image.
    """
    found = copy.deepcopy(dict(dataloader))
    _load_first(found['dataset'])
    found.pop('batch_sampler', None)
    sampler = dict(type='DefaultSampler', shuffle=True)
    return dict(found, batch_size=batch_size, sampler=sampler)


def _load_first(node: Any) -> None:
    if isinstance(node, dict):
        if isinstance(node.get('pipeline'), (list, tuple)):
            # a stable sort: loading comes first, all else keeps its order
            node['pipeline'] = sorted(node['pipeline'], key=lambda step: not _loads(step))
        for value in node.values():
            _load_first(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _load_first(value)


def _loads(step: Dict[str, Any]) -> bool:
    return type_name(step).startswith('Load')
