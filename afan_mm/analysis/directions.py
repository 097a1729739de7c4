"""Directions in the space of weights along which a loss is looked at (Li et al., 2018)."""

from contextlib import contextmanager
from typing import Dict, Iterator, List, NamedTuple, Sequence

import torch
from torch import Tensor, nn

State = Dict[str, Tensor]


class Surface(NamedTuple):
    """A point in the space of weights, and directions from it.

    Attributes:
        origin: Weights and buffers of a model by name.
        directions: One or two; what a direction lacks stays as in the origin.
    """

    origin: State
    directions: List[State]


def random_direction(model: nn.Module, origin: State, seed: int = 0) -> State:
    """A filter-normalised random direction (Li et al., 2018, Sec. 4).

    Each filter (of a convolution: all weights of one output channel; of a linear layer: all of one
    neuron) is Gaussian noise scaled to the norm of the filter in the origin, so that one unit along
    the direction changes every filter by its own size and networks of different scale can be
    compared. Biases and the parameters of norm layers (all with one axis) do not move, nor do the
    running statistics; nor do weights that the host has frozen.

    Args:
        model: Says which parameters there are and which are trained.
        origin: Weights by name, whose filters give the norms.
        seed: Of the noise, which is the same for all origins. Defaults to 0.
    """
    generator = torch.Generator().manual_seed(seed)
    transposed = {
        f'{path}.weight' if path else 'weight': module.groups
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.conv._ConvTransposeNd)
    }
    direction = {}
    for name, parameter in model.named_parameters():
        # drawn for every parameter: what is frozen in one model must not shift the others' noise
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.requires_grad and parameter.dim() > 1:
            weight = origin[name].detach().cpu().to(noise.dtype)
            # transposed convolutions have their output channels, of each group, on the second axis
            groups = transposed.get(name, 0)
            scaled = _scale_filters(noise, weight, groups)
            direction[name] = scaled.to(origin[name].dtype)
    return direction


def _scale_filters(noise: Tensor, weight: Tensor, groups: int) -> Tensor:
    shape = noise.shape
    if groups:
        grouped = (groups, shape[0] // groups, shape[1], -1)
        noise, weight = (t.reshape(grouped).transpose(1, 2) for t in (noise, weight))
    kept = 2 if groups else 1
    norms = [t.flatten(kept).norm(dim=-1) for t in (weight, noise)]
    factor = norms[0] / norms[1].clamp(min=1e-10)
    scaled = noise * factor.reshape(*factor.shape, *[1] * (noise.dim() - kept))
    return (scaled.transpose(1, 2) if groups else scaled).reshape(shape)


def line_direction(start: State, end: State) -> State:
    """From one checkpoint to another: 0 is the first, 1 the second.

    Everything moves, biases, norm layers and their running statistics included: without these no
    end would have its own loss (Li et al., 2018, on batch norm). Buffers of integers stay.

    Raises:
        ValueError: If the checkpoints are not of the same model.
    """
    differing = [n for n in start if n not in end or end[n].shape != start[n].shape]
    differing += [n for n in end if n not in start]
    if differing:
        raise ValueError(
            'both ends of a line must be checkpoints of one model, but they differ in '
            f'{", ".join(differing[:3])}{", ..." * (len(differing) > 3)}'
        )
    return {
        name: end[name].to(value.dtype) - value
        for name, value in start.items()
        if value.is_floating_point()
    }


@contextmanager
def weights_at(model: nn.Module, surface: Surface, steps: Sequence[float]) -> Iterator[None]:
    """The model at a point of a surface inside, at its own weights outside.

    Args:
        steps: How far along each direction, in units of it. A running variance that a line would
            take below zero is zero.
    """
    own = model.state_dict()
    before = {name: tensor.clone() for name, tensor in own.items()}
    try:
        with torch.no_grad():
            for name, tensor in own.items():
                value = surface.origin[name].to(tensor.device)
                for step, direction in zip(steps, surface.directions):
                    if name in direction:
                        value = value + step * direction[name].to(tensor.device)
                negative = name.endswith('running_var')
                tensor.copy_(value.clamp(min=0) if negative else value)
        yield
    finally:
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(before[name])
