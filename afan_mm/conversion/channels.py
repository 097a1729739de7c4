"""Which axis of a feature holds its channels."""

from typing import Set

from torch import Tensor, nn

from ..models.point import Point


def channel_axis(feature: Tensor, point: Point) -> int:
    """1 or -1, as :class:`~afan_mm.AFANSettings` has it.

    A shape alone does not tell tokens (N, L, C) from a sequence (N, C, L), but the layers of the
    module there do: channels are what its layer norms normalise or, where that fits both axes or
    none, what its linear layers read or give. A module of convolutions has neither, and its
    channels second.

    Args:
        feature: Any level of what is there.
        point: Where it is.
    """
    norms: Set[int] = set()
    linear: Set[int] = set()
    for module in point.owner.modules():
        if isinstance(module, nn.LayerNorm):
            norms.add(module.normalized_shape[-1])
        elif isinstance(module, nn.Linear):
            linear.update((module.in_features, module.out_features))
    if feature.dim() > 2:  # a vector's second axis is its last
        for widths in (norms, linear):
            second, last = feature.shape[1] in widths, feature.shape[-1] in widths
            if second != last:
                return -1 if last else 1
    return 1
