"""How much of a training step comes after a point of a model, in floating-point operations.

Counted are convolutions and matrix products, as torch's ``FlopCounterMode`` does, in one forward
pass. An operation is charged to the innermost module that ran it, and belongs to the tail of a
point if what that module returned depends on the feature there: a head that reads another feature
does not, whenever it runs. The backward pass costs each operation in proportion.
"""

from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..isolation import replaced
from ..models.point import Point
from ..models.rerun import depends_on

try:
    from torch.utils.flop_counter import FlopCounterMode
except ImportError:  # before torch 2.1
    FlopCounterMode = None


class Call(NamedTuple):
    """A call of a module that ran counted operations itself, not in a module inside it."""

    module: nn.Module
    flops: int
    returned: List[Tensor]


class Feature:
    """What was at a point when the forward pass first came by.

    Attributes:
        point: Where.
        levels: Its tensors, as the model went on with them.
        came: The address and shape of each as it came, by which the same tensor is known again.
    """

    def __init__(self, point: Point):
        self.point = point
        self.levels: List[Tensor] = []
        self.came: List[Tuple[int, torch.Size]] = []
        self._versions: List[int] = []

    def take(self, leaf: Any) -> Any:
        """A tensor as a node of its own in the graph, which can be found in it again."""
        if not isinstance(leaf, Tensor):
            return leaf
        self.came.append(identity(leaf))
        if leaf.is_floating_point():
            leaf = (leaf if leaf.requires_grad else leaf.detach().requires_grad_()).clone()
        self.levels.append(leaf)
        self._versions.append(leaf._version)
        return leaf

    def nodes(self, levels: Optional[Sequence[int]] = None) -> Set[Any]:
        """Of the graph, at these levels. Defaults to all."""
        chosen = self.levels if levels is None else [self.levels[level] for level in levels]
        return {level.grad_fn for level in chosen} - {None}

    @property
    def is_intact(self) -> bool:
        """Whether nothing has overwritten it since."""
        return [level._version for level in self.levels] == self._versions


def identity(tensor: Tensor) -> Tuple[int, torch.Size]:
    """The same for tensors with the same values at the same address."""
    return tensor.data_ptr(), tensor.shape


class Meter:
    """Runs a model once, and knows then which operations come after a point.

    Args:
        model: The model.
        points: Those to know of, by name.
        compute: Runs the model's forward pass and returns its losses.

    Attributes:
        features: By name, those of the points that were passed with gradients on, in the order in
            which they were passed.
        losses: The tensors among the losses.
        within: The FLOPs of the calls of each module, with those of the modules inside it.
        calls: How often each module was called.
        total: All FLOPs.

    Raises:
        ImportError: If torch cannot count.
    """

    def __init__(
        self, model: nn.Module, points: Dict[str, Point], compute: Callable[[], Dict[str, Any]]
    ):
        if FlopCounterMode is None:
            raise ImportError(
                f'torch {torch.__version__} has no torch.utils.flop_counter; torch 2.1 has'
            )
        self.features: Dict[str, Feature] = {}
        self.within: Dict[nn.Module, int] = Counter()
        self.calls: Dict[nn.Module, int] = Counter()
        self._own: List[Call] = []
        self._running: List[List[int]] = []  # FLOPs at the start of each call; in calls inside it
        self._counter = FlopCounterMode(display=False)
        with ExitStack() as stack:
            for module in model.modules():
                for hook in (
                    module.register_forward_pre_hook(self._enter),
                    module.register_forward_hook(self._leave),
                ):
                    stack.callback(hook.remove)
            for name, point in points.items():
                method = partial(self._pass, name, point, getattr(point.owner, point.method))
                stack.enter_context(replaced(point.owner, **{point.method: method}))
            with self._counter:
                losses = compute()
        self.losses = _tensors(losses)
        self.total: int = self._counter.get_total_flops()

    def share(self, name: str, levels: Optional[Sequence[int]] = None) -> float:
        """The share of all FLOPs that comes after a feature.

        Args:
            name: Of its point.
            levels: Its tensors that count. Defaults to all.
        """
        feature = self.features[name]
        nodes, elsewhere = feature.nodes(levels), set()
        after = 0
        for module, flops, returned in self._own:
            made_it = module is feature.point.owner and not feature.point.reads
            if not made_it and depends_on(returned, nodes, elsewhere):
                after += flops
        return after / self.total

    def levels_read(self, name: str, by: Optional[Sequence[Tensor]] = None) -> Tuple[int, ...]:
        """The indices of a feature's tensors that others depend on.

        Args:
            name: Of its point.
            by: These others. Defaults to the losses.
        """
        levels = range(len(self.features[name].levels))
        by = self.losses if by is None else list(by)
        nodes = {level: self.features[name].nodes([level]) for level in levels}
        return tuple(level for level in levels if nodes[level] and depends_on(by, nodes[level]))

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._running.append([self._counter.get_total_flops(), 0])

    def _leave(self, module: nn.Module, args: Any, returned: Any) -> None:
        start, inside = self._running.pop()
        flops = self._counter.get_total_flops() - start
        if self._running:
            self._running[-1][1] += flops
        self.within[module] += flops
        self.calls[module] += 1
        if flops > inside:
            self._own.append(Call(module, flops - inside, _tensors(returned)))

    def _pass(self, name: str, point: Point, stock: Callable, *args, **kwargs) -> Any:
        feature = args[0] if point.reads else stock(*args, **kwargs)
        if name not in self.features and torch.is_grad_enabled():
            leaves, structure = tree_flatten(feature)
            taken = Feature(point)
            feature = tree_unflatten([taken.take(leaf) for leaf in leaves], structure)
            if taken.levels:
                self.features[name] = taken
        return stock(feature, *args[1:], **kwargs) if point.reads else feature


def _tensors(value: Any) -> List[Tensor]:
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]
