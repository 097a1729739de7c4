"""The call of a method at which a component has its site, and the way from there to
:func:`~afan_mm.tap`.
"""

from typing import Any, Callable, ContextManager, List, NamedTuple, Optional, Sequence, Tuple

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..contribution import Losses
from ..isolation import replaced
from ..settings import AFANSettings
from ..taps import is_perturbing, tap


class Point(NamedTuple):
    """What the calls of a method return or, with ``reads``, their first argument."""

    owner: nn.Module
    method: str = 'forward'
    reads: bool = False


def modules_after(root: nn.Module, point: Point) -> List[nn.Module]:
    """The modules of ``root`` that may run after a point in it: those registered after it, since
    models register their parts in the order in which they run them.
    """
    modules, inside = list(root.modules()), set(point.owner.modules())
    later = modules[modules.index(point.owner) :]
    return [module for module in later if point.reads or module not in inside]


class Passage:
    """What a component's feature passes on its way: a point, and a site there.

    Args:
        point: Where the site is.
        settings: How to perturb.
        levels: Indices of the perturbed levels, see :class:`Levels`.
    """

    def __init__(
        self, point: Point, settings: AFANSettings, levels: Optional[Sequence[int]] = None
    ):
        self.point = point
        self.settings = settings
        self.levels = levels

    @property
    def method(self) -> Callable:
        """The method that stands at the point now."""
        return getattr(self.point.owner, self.point.method)

    def replaced(self, method: Callable) -> ContextManager:
        """Inside, another method stands there."""
        return replaced(self.point.owner, **{self.point.method: method})

    def perturbed(self) -> ContextManager:
        """Inside, a joint adversarial pass of an earlier site perturbs the feature once."""
        stock = self.method

        def method(*args, **kwargs) -> Any:
            if not is_perturbing(self.settings):
                return stock(*args, **kwargs)
            levels = Levels(self.reach(stock, *args, **kwargs), self.levels)
            perturbed, others = levels.split()
            perturbed = tap(self.settings.name, perturbed, _no_tail, self.settings)
            return self.resume(stock, levels.join(perturbed, others), *args[1:], **kwargs)

        return self.replaced(method)

    def reach(self, stock: Callable, *args, **kwargs) -> Any:
        """The feature, on a call of the method."""
        if not self.point.reads:
            return stock(*args, **kwargs)
        if not args:
            raise ValueError(
                f'A-FAN site {self.settings.name!r}: {type(self.point.owner).__name__} must get '
                f'the feature as its first positional argument, but got {", ".join(kwargs)} by '
                'keyword; choose the output of the module before'
            )
        return args[0]

    def resume(self, stock: Callable, feature: Any, *args, **kwargs) -> Any:
        """What the method returns with this feature; the arguments are those after the first."""
        return stock(feature, *args, **kwargs) if self.point.reads else feature

    @property
    def answers_call(self) -> bool:
        """Whether the feature stands for all that the call of the owner has computed before."""
        return not self.point.reads


def _no_tail(*args) -> Losses:
    raise RuntimeError('a joint adversarial pass has no tail of its own at a later site')


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
        tensors = [index for index, leaf in enumerate(self._leaves) if isinstance(leaf, Tensor)]
        if levels is None and len(tensors) != 1:
            raise ValueError(
                f'levels must be given for a module that returns {len(tensors)} tensors'
            )
        chosen = self.indices((0,) if levels is None else levels, len(tensors))
        self._chosen = [tensors[level] for level in chosen]
        self._others = [index for level, index in enumerate(tensors) if level not in chosen]

    def split(self) -> Tuple[List[Tensor], List[Tensor]]:
        """The perturbed levels and the others, handed over: what a tail holds on to must not carry
        a graph.
        """
        parts = (
            [self._leaves[index] for index in self._chosen],
            [self._leaves[index] for index in self._others],
        )
        for index in (*self._chosen, *self._others):
            self._leaves[index] = None
        return parts

    def join(self, perturbed: Sequence[Tensor], others: Sequence[Tensor]) -> Any:
        """The feature as it came, with these tensors in place of its own."""
        leaves = list(self._leaves)
        for index, tensor in zip((*self._chosen, *self._others), (*perturbed, *others)):
            leaves[index] = tensor
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
