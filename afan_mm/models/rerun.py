"""A site inside one call of a method, whose tail is the rest of that call."""

from typing import Any, Callable, ContextManager, Iterator, Optional, Sequence, Set

from torch import Tensor, nn

from ..isolation import replaced
from ..settings import AFANSettings
from ..site import Losses, is_recording, tap
from .point import Levels, Point
from .tape import Tape, pack


class Rerun:
    """Stands in for a method that returns losses: taps the site in the clean pass, and runs what
    comes after it again.

    Submodules that returned before the site was reached are answered from a tape when it runs
    again. A point that is reached more than once is a site the first time. Losses that do not
    depend on the site are not given a second time.

    Args:
        root: The module that owns the method.
        compute: The method.
        point: Where the site is.
        settings: How to perturb.
        levels: Indices of the perturbed levels, see :class:`Levels`.
    """

    def __init__(
        self,
        root: nn.Module,
        compute: Callable[..., Any],
        point: Point,
        settings: AFANSettings,
        levels: Optional[Sequence[int]] = None,
    ):
        self.root = root
        self.settings = settings
        self._compute = compute
        self._point = point
        self._stock = getattr(point.owner, point.method)
        self._levels = levels
        self._tape = Tape(root)
        self._arguments: Any = None
        self._gate: Any = None
        self._constant_keys: Set[str] = set()

    def __call__(self, *args, **kwargs) -> Any:
        """The method's own result."""
        if not is_recording(self.settings):
            return self._compute(*args, **kwargs)
        self._arguments = pack((args, kwargs))
        with self._tape.record(), self._instead(self._at_site):
            result = self._compute(*args, **kwargs)
        if self._arguments is not None:
            raise ValueError(
                f'{type(self.root).__name__} computes its loss without passing the A-FAN site '
                f'{self.settings.name!r}; choose another site: '
                + ', '.join(name for name, _ in self.root.named_children())
            )
        if self._gate is not None:
            elsewhere: Set[Any] = set()
            self._see_losses(
                self._losses_of(result), lambda loss: depends_on(loss, self._gate, elsewhere)
            )
        self._gate = None
        return result

    def _losses_of(self, result: Any) -> Losses:
        """The losses in what the method returned."""
        return result

    def _see_losses(self, losses: Losses, depends: Callable[[Any], bool]) -> None:
        """The clean losses are known, and which of them depend on the site."""
        self._constant_keys = {key for key, value in losses.items() if not depends(value)}

    def _instead(self, method: Callable) -> ContextManager:
        return replaced(self._point.owner, **{self._point.method: method})

    def _at_site(self, *args, **kwargs) -> Any:
        if self._arguments is None:
            return self._stock(*args, **kwargs)
        if self._point.reads:
            feature, *args = args
        else:
            feature = self._stock(*args, **kwargs)
            self._tape.forget_running_call()
        self._feature = Levels(feature, self._levels)
        perturbed, others = self._feature.split()
        taped = self._tape.close(self._arguments)
        self._num_taped = len(taped)
        self._arguments = None  # the tensors in it are the context's now
        tapped = tap(self.settings.name, perturbed, self._tail, self.settings, (*taped, *others))
        self._gate = tapped[0].grad_fn
        feature = self._feature.join(tapped, others)
        return self._go_on(feature, *args, **kwargs) if self._point.reads else feature

    def _go_on(self, feature: Any, *args, **kwargs) -> Any:
        """The clean pass goes on with the method that reads the feature."""
        return self._stock(feature, *args, **kwargs)

    def _tail(self, perturbed: Sequence[Tensor], *context: Tensor) -> Losses:
        taped, others = context[: self._num_taped], context[self._num_taped :]
        feature = self._feature.join(perturbed, others)
        answers: Iterator[Any] = iter([feature])

        def answer(*args, **kwargs):
            for feature in answers:
                return self._stock(feature, *args[1:], **kwargs) if self._point.reads else feature
            return self._stock(*args, **kwargs)

        with self._tape.replay(taped) as (args, kwargs), self._instead(answer):
            return self._dependent(self._losses_of(self._compute(*args, **kwargs)))

    def _dependent(self, losses: Losses) -> Losses:
        return {key: value for key, value in losses.items() if key not in self._constant_keys}


def depends_on(value: Any, node: Any, elsewhere: Optional[Set[Any]] = None) -> bool:
    """Whether a gradient of ``value`` would pass through a node of the graph.

    Args:
        value: A tensor, or a list or tuple of them; anything else depends on nothing.
        node: The ``grad_fn`` looked for.
        elsewhere: Nodes known not to lead there. Extended on the way, so that several questions
            about one node walk every part of the graph once.
    """
    if isinstance(value, (list, tuple)):
        return any(depends_on(v, node, elsewhere) for v in value)
    if not isinstance(value, Tensor) or value.grad_fn is None:
        return False
    elsewhere = set() if elsewhere is None else elsewhere
    seen, stack = set(), [value.grad_fn]
    while stack:
        current = stack.pop()
        if current is node:
            return True
        if current in seen or current in elsewhere:
            continue
        seen.add(current)
        stack.extend(upstream for upstream, _ in current.next_functions if upstream is not None)
    elsewhere |= seen
    return False
