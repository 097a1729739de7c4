"""The norms in which a perturbation is measured, and their balls; torch only.

Shapes as in :mod:`afan_mm.functional`: a feature is (N, C, *S).
"""

import math
from typing import Optional, Tuple, Union

import torch
from torch import Tensor

from .functional import full_precision

NORMS = ('linf', 'l2')
NORM_OVER = ('sample', 'position')
Radius = Union[float, Tensor]


def norm_axes(feature: Tensor, over: str) -> Tuple[int, ...]:
    """The axes of the vectors that an l2 norm is taken of.

    ==========  =======  ============  ====================================================
    over        axes     norms         a vector is
    ==========  =======  ============  ====================================================
    'sample'    C, S     (N, 1, 1...)  a whole sample; a whole RoI at a site of RoIs
    'position'  C        (N, 1, *S)    the channels of one pixel; 'sample' where S is empty
    ==========  =======  ============  ====================================================

    Args:
        feature: (N, C, *S).
        over: One of the table.

    Raises:
        ValueError: If ``over`` is unknown.
    """
    if over not in NORM_OVER:
        raise ValueError(f'norm_over must be one of {NORM_OVER}, but got {over!r}')
    return (1,) if over == 'position' else tuple(range(1, feature.dim()))


def l2_norm(feature: Tensor, over: str = 'sample') -> Tensor:
    """The l2 norm of each vector of :func:`norm_axes`, in full precision and in a shape that
    broadcasts against the feature.
    """
    axes = norm_axes(feature, over)
    if feature.is_cpu:  # several times as fast there across the channels
        return full_precision(feature).square().sum(axes, keepdim=True).sqrt()
    dtype = torch.promote_types(feature.dtype, torch.float32)
    return torch.linalg.vector_norm(feature, 2, axes, keepdim=True, dtype=dtype)


def vectors_along(feature: Tensor, over: str = 'sample', length: Radius = 1.0) -> Tensor:
    """Each vector of :func:`norm_axes` at this l2 norm, in full precision; zero stays zero.

    A gradient's squares may be zero or infinite where the gradient is neither: the vectors are
    scaled by their largest element first.

    Args:
        feature: (N, C, *S), without a graph.
        over: See :func:`norm_axes`. Defaults to 'sample'.
        length: A number, or a tensor that broadcasts against the feature. Defaults to 1.
    """
    axes = norm_axes(feature, over)
    if feature.is_cpu:  # see l2_norm
        largest = full_precision(
            torch.maximum(feature.amax(axes, keepdim=True), -feature.amin(axes, keepdim=True))
        )
    else:
        dtype = torch.promote_types(feature.dtype, torch.float32)
        largest = torch.linalg.vector_norm(feature, math.inf, axes, keepdim=True, dtype=dtype)
    scaled = feature / torch.where(largest > 0, largest, torch.ones_like(largest))
    # at least one, but for the zero vector
    return scaled.mul_(length / l2_norm(scaled, over).clamp(min=1))


class Linf:
    """The ball of the l-infinity norm (Eq. 2): no element is longer than the radius."""

    def step(self, gradient: Tensor, length: Radius) -> Tensor:
        """The vector of this length along which a loss of this gradient rises most: its sign."""
        return full_precision(gradient.sign()).mul_(length)

    def project(self, delta: Tensor, radius: Radius) -> Tensor:
        """The nearest point of the ball."""
        if isinstance(radius, Tensor):
            radius = radius.to(delta.dtype)
        return delta.clamp(-radius, radius)  # a number stays one: a tensor of it would be sent

    def uniform(self, like: Tensor, generator: Optional[torch.Generator]) -> Tensor:
        """Anywhere in the ball of radius one."""
        noise = torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
        return 2 * noise - 1


class L2:
    """The ball of the l2 norm of each sample, or of each position (not the paper's).

    Args:
        over: See :func:`norm_axes`. Defaults to 'sample'.
    """

    def __init__(self, over: str = 'sample'):
        self.over = over

    def step(self, gradient: Tensor, length: Radius) -> Tensor:
        """The vector of this length along which a loss of this gradient rises most: the gradient's
        own direction, and zero where the gradient is.
        """
        return vectors_along(gradient, self.over, length)

    def project(self, delta: Tensor, radius: Radius) -> Tensor:
        """The nearest point of the ball."""
        length = l2_norm(delta, self.over)
        shrink = torch.where(length > radius, radius / length, torch.ones_like(length))
        return (delta * shrink).to(delta.dtype)

    def uniform(self, like: Tensor, generator: Optional[torch.Generator]) -> Tensor:
        """Anywhere in the ball of radius one: in d dimensions, any direction and a radius whose
        d-th power is uniform.
        """
        axes = norm_axes(like, self.over)
        direction = torch.zeros_like(like).normal_(generator=generator)
        power = torch.rand(
            [1 if axis in axes else size for axis, size in enumerate(like.shape)],
            generator=generator,
            device=like.device,
            dtype=full_precision(like).dtype,
        )
        radius = power ** (1 / math.prod(like.shape[a] for a in axes))
        return self.step(direction, radius).to(like.dtype)


Norm = Union[Linf, L2]
