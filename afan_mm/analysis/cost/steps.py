"""One training step of each kind, given the model, a batch and the optim wrapper."""

from typing import Any, List, Sequence

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from ...attack import pgd
from ...declared import declared_by
from .schedules import Schedule, SiteReached

PIXEL_EPSILON = 4 / 255  # its size does not change the work


def train_step(model: nn.Module, data: dict, wrapper: OptimWrapper) -> Any:
    """The host's own."""
    return model.train_step(data, wrapper)


def released_step(model: nn.Module, data: dict, wrapper: Schedule) -> None:
    """The released code's work: for every site a forward pass up to it and an attack pass, then one
    graph of all losses.

    The features of those forward passes are freed at once, and those of the clean pass attacked,
    which are the same: it holds less than the released code, and does as much.
    """
    data = model.data_preprocessor(data, True)
    for settings in [
        each for module in model.modules() for each in declared_by(module) if each.num_strengths
    ]:
        try:
            with wrapper.optim_context(model, stop_at=settings.name):
                model._run_forward(data, mode='loss')
        except SiteReached:
            pass
    _accumulate(model, data, wrapper)
    _update(wrapper)


def pixel_step(model: nn.Module, data: dict, wrapper: OptimWrapper, num_steps: int = 1) -> None:
    """Adversarial training on the image, beside the clean one (as in AdvProp): attack passes
    through the whole model, then the clean and one adversarial pass.

    Args:
        num_steps: Attack passes. Defaults to 1.
    """
    data = model.data_preprocessor(data, True)
    clean = data['inputs']

    def gradient(deltas: List[Tensor]) -> Sequence[Tensor]:
        image = (clean + deltas[0]).detach().requires_grad_()
        with wrapper.optim_context(model):
            losses = model._run_forward(dict(data, inputs=image), mode='loss')
        return torch.autograd.grad(model.parse_losses(losses)[0], [image])

    found = pgd([clean], gradient, [PIXEL_EPSILON], [PIXEL_EPSILON], num_steps)
    _accumulate(model, data, wrapper)
    _accumulate(model, dict(data, inputs=clean + found.deltas[0]), wrapper)
    _update(wrapper)


def _accumulate(model: nn.Module, data: dict, wrapper: OptimWrapper) -> None:
    with wrapper.optim_context(model):
        losses = model._run_forward(data, mode='loss')
    wrapper.backward(wrapper.scale_loss(model.parse_losses(losses)[0]))


def _update(wrapper: OptimWrapper) -> None:
    wrapper.step()
    wrapper.zero_grad()
