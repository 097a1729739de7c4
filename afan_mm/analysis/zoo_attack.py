"""A step of each attack on the pixels, as the sweep tries it on a family: part of zoo_trial.py."""

from typing import Any, Dict, Tuple

import torch
from torch import nn

from ..robustness import AttackError, AttackSettings, PixelAttack
from ..robustness.settings import ATTACKS_OF, library_of

# SegPGD's first step leaves out pixels that are wrong, which with random weights all may be
NUM_STEPS = dict(pgd=1, segpgd=2, cospgd=1)


class NoGradientError(AttackError):
    """An attack that had nothing to go by."""


def one_image(batch: Dict[str, Any]) -> Dict[str, Any]:
    """A batch as a test pipeline gives it: of a semi-supervised family the labelled branch."""
    branches = isinstance(batch['inputs'], dict)
    return {key: value['sup'] for key, value in batch.items()} if branches else batch


def fit_norms(model: nn.Module, batch: Dict[str, Any]) -> None:
    """Give batch norms the statistics of a batch, as those of a trained model are of its data.

    With those of a new norm random weights may let features grow from layer to layer, until the
    prediction is certain everywhere, and no loss has a gradient.

    Args:
        model: The host; in evaluation mode afterwards.
        batch: As its training step takes it.
    """
    for module in model.train().modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0  # the last batch alone
    with torch.no_grad():
        model._run_forward(model.data_preprocessor(batch, True), mode='loss')
    model.eval()


def attack_steps(
    model: nn.Module, batch: Dict[str, Any]
) -> Tuple[Dict[str, float], Dict[str, Exception]]:
    """A step of every attack that fits the task, on raw pixels.

    Args:
        model: The host, in evaluation mode.
        batch: Images with ground truth in their frame.

    Returns:
        The share of the values of the pixels that each attack moved, in (0, 1], and what went wrong
        with the others: both by the attack's name.

    Raises:
        AttackError: If the robust evaluation refuses the model.
    """
    library = library_of(model)
    moved: Dict[str, float] = {}
    errors: Dict[str, Exception] = {}
    for name in (name for name in ATTACKS_OF[library] if name in NUM_STEPS):
        try:
            moved[name] = _attack_step(model, batch, library, name)
        except Exception as error:  # whatever a family does not like about it
            errors[name] = error
    return moved, errors


def _attack_step(model: nn.Module, batch: Dict[str, Any], library: str, name: str) -> float:
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    settings = AttackSettings.for_library(library, attack=name, num_steps=NUM_STEPS[name])
    found = PixelAttack(model, settings)(batch)
    moved = torch.stack(
        [(new != old).double().mean() for new, old in zip(found.images, batch['inputs'])]
    )
    if not all(found.finite):
        raise AttackError('the gradient is not finite')
    if not moved.all():
        raise NoGradientError('no pixel was moved: the gradient is zero')
    after = model.state_dict()  # with what a host gives a second place when it trains
    changed = [key for key, tensor in before.items() if not _equal(after[key], tensor)]
    if changed or any(parameter.grad is not None for parameter in model.parameters()):
        raise AttackError(f'the attack left traces in the model: {changed or "gradients"}')
    return float(moved.mean())


def _equal(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(torch.nan_to_num(tensor), torch.nan_to_num(other))
