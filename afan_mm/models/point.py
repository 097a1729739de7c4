"""Where a component has its site, and which part of the feature there is perturbed."""

from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten


class Point(NamedTuple):
    """A place in a network: what a method returns or, with ``reads``, its first argument."""

    owner: nn.Module
    method: str = 'forward'
    reads: bool = False


class Levels:
    """A feature, split into the perturbed levels and the others.

    Args:
        feature: A tensor, or tensors in lists, tuples and dicts, with whatever else is among them.
            Its tensors are the levels, in their order.
        levels: Indices of the perturbed ones. Defaults to None, the only tensor there is.

    Raises:
        ValueError: If there is no such level, or ``levels`` is None and there are several.
    """

    def __init__(self, feature: Any, levels: Optional[Sequence[int]] = None):
        self._leaves, self._structure = tree_flatten(feature)
        places = [place for place, leaf in enumerate(self._leaves) if isinstance(leaf, Tensor)]
        if levels is None and len(places) != 1:
            raise ValueError(
                f'levels must be given for a module that returns {len(places)} tensors'
            )
        chosen = self.indices((0,) if levels is None else levels, len(places))
        self._chosen = [places[level] for level in chosen]
        self._others = [place for level, place in enumerate(places) if level not in chosen]

    def split(self) -> Tuple[List[Tensor], List[Tensor]]:
        """The perturbed levels and the others, handed over: what a tail holds on to must not carry
        a graph.
        """
        parts = (
            [self._leaves[place] for place in self._chosen],
            [self._leaves[place] for place in self._others],
        )
        for place in (*self._chosen, *self._others):
            self._leaves[place] = None
        return parts

    def join(self, perturbed: Sequence[Tensor], others: Sequence[Tensor]) -> Any:
        """The feature as it came, with these tensors in place of its own."""
        leaves = list(self._leaves)
        for place, tensor in zip((*self._chosen, *self._others), (*perturbed, *others)):
            leaves[place] = tensor
        return tree_unflatten(leaves, self._structure)

    @staticmethod
    def indices(levels: Sequence[int], num_levels: int) -> List[int]:
        """The levels counted from zero; ValueError where there is no such level or one is named
        twice.
        """
        if not all(-num_levels <= level < num_levels for level in levels):
            raise ValueError(
                f'levels must lie in [{-num_levels}, {num_levels - 1}] for a feature of '
                f'{num_levels} levels, '
                f'but got {tuple(levels)}'
            )
        indices = [level % num_levels for level in levels]
        if len(set(indices)) < len(indices):
            raise ValueError(
                f'levels must be different levels, but got {tuple(levels)} for a feature of '
                f'{num_levels} levels'
            )
        return indices


def as_levels(levels: Any) -> Optional[Tuple[int, ...]]:
    """The option ``levels`` of a component, checked."""
    if levels is None:
        return None
    if (
        not isinstance(levels, (list, tuple))
        or not levels
        or not all(type(level) is int for level in levels)
    ):
        raise ValueError(f'levels must be a list of integers, but got {levels!r}')
    return tuple(levels)
