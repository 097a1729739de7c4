"""Projected gradient ascent on a tensor, Eq. 2: a feature and a way to its gradient in, a
perturbation out.
"""

from typing import Callable, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .functional import all_finite, full_precision
from .norms import Linf, Norm, Radius

Gradient = Callable[[List[Tensor]], Sequence[Optional[Tensor]]]
Bounds = Tuple[Radius, Radius]


class Perturbation(NamedTuple):
    """What :func:`pgd` found.

    Attributes:
        deltas: One perturbation per level, shaped like the features and inside the ball, in at
            least float32.
        finite: 0-dim bool tensor: whether every gradient on the way was finite. Where it is False
            all deltas are zero.
    """

    deltas: List[Tensor]
    finite: Tensor

    def void(self) -> 'Perturbation':
        """One that is skipped as if it were not finite."""
        return Perturbation(
            [torch.zeros_like(delta) for delta in self.deltas], torch.zeros_like(self.finite)
        )


def pgd(
    features: Sequence[Tensor],
    gradient: Gradient,
    epsilon: Sequence[Radius],
    step_size: Sequence[Radius],
    num_steps: int = 1,
    random_start: bool = False,
    first_gradient: Optional[Iterable[Optional[Tensor]]] = None,
    generator: Optional[torch.Generator] = None,
    bounds: Optional[Sequence[Optional[Bounds]]] = None,
    norms: Optional[Sequence[Norm]] = None,
) -> Perturbation:
    """Find the perturbation in a ball that raises the loss (Eq. 2).

    A level whose gradient is None (the loss does not read it) or zero is not moved. A gradient that
    is not finite anywhere ends in a zero perturbation of every level, decided on the device: no
    branch waits for it.

    Args:
        features: The clean features, one tensor per level, any shape; never modified.
        gradient: Maps deltas, one for each level and shaped like it, to the loss's gradient with
            respect to each of them. It adds the features itself, since it may not be the clean ones
            that they are added to: with several sites, a later feature depends on the earlier
            deltas.
        epsilon: Radius of the ball for each level: a number, or a tensor that broadcasts against
            it.
        step_size: Length of one step for each level, likewise.
        num_steps: Number of steps; n in PGD-n. Defaults to 1.
        random_start: Start anywhere in the ball instead of at its centre. Defaults to False.
        first_gradient: The gradient at the start, where the caller already has it. An iterator lets
            the attack let go of each, as large as its feature, once it has the delta. Not allowed
            with ``random_start``.
        generator: For ``random_start``, on the features' device.
        bounds: Least and largest value of each perturbed level, (0, 255) for the pixels of an
            image, or None: after each step the deltas are clipped to what they leave. Numbers, or
            tensors that broadcast against the level; a clean value outside is not moved further
            out. Defaults to None, no bounds.
        norms: The norm of each level's ball and step, :class:`Linf` or :class:`L2`. Defaults to
            None, :class:`Linf` for all.

    Returns:
        Perturbation: The deltas and whether they can be trusted.
    """
    if random_start and first_gradient is not None:
        raise ValueError(
            'first_gradient must be None with random_start: the attack does not start at the '
            'clean feature'
        )
    norms = [Linf()] * len(features) if norms is None else norms
    bounds = [None] * len(features) if bounds is None else bounds
    if random_start:
        deltas = [
            _within(norm.uniform(full_precision(f), generator) * eps, f, limits)
            for norm, f, eps, limits in zip(norms, features, epsilon, bounds)
        ]
    else:
        deltas = [_nothing(f) for f in features]
    finite = torch.ones((), dtype=torch.bool, device=features[0].device)
    for step in range(num_steps):
        given = step == 0 and first_gradient is not None
        grads = list(first_gradient if given else gradient(deltas))
        known = [grad for grad in grads if grad is not None and grad.numel()]
        if known:
            finite = finite & all_finite(known)
        del known
        at_centre = step == 0 and not random_start
        levels = list(zip(features, bounds, norms, epsilon, step_size))
        while grads:
            delta, grad, (f, limits, *ball) = deltas[len(grads) - 1], grads.pop(), levels.pop()
            # Zeroed within the loop, so that the next step's forward pass never meets what this
            # gradient broke.
            if grad is None:
                delta = torch.where(finite, delta, delta.new_zeros(()))
            else:
                delta = _within(_ascend(delta, grad, *ball, at_centre), f, limits)
                delta.masked_fill_(~finite, 0)
            deltas[len(grads)] = delta
    return Perturbation(deltas, finite)


def _nothing(feature: Tensor) -> Tensor:
    """Zeros of the feature's shape, of no memory."""
    dtype = torch.promote_types(feature.dtype, torch.float32)
    return feature.new_zeros((), dtype=dtype).expand_as(feature)


def _ascend(
    delta: Tensor, grad: Tensor, norm: Norm, epsilon: Radius, step_size: Radius, at_centre: bool
) -> Tensor:
    """One step along the gradient, projected back onto the ball; a tensor of its own."""
    if at_centre:  # the ball is round
        return norm.step(grad, _shorter(step_size, epsilon)).to(delta.dtype)
    return norm.project(delta + norm.step(grad, step_size).to(delta.dtype), epsilon)


def _shorter(first: Radius, second: Radius) -> Radius:
    if isinstance(second, Tensor):
        return second.clamp(max=first)
    return first.clamp(max=second) if isinstance(first, Tensor) else min(first, second)


def _within(delta: Tensor, feature: Tensor, bounds: Optional[Bounds]) -> Tensor:
    """The delta that keeps feature + delta within the bounds. It only shrinks, and so stays in the
    ball.
    """
    if bounds is None:
        return delta
    (low, high), feature = bounds, full_precision(feature)
    up, down = (high - feature).clamp(min=0), (low - feature).clamp(max=0)
    return torch.maximum(torch.minimum(delta, up), down)
