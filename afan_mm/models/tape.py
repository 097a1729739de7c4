"""Run a module again, but only what comes after a point that an earlier run has passed."""

from collections import defaultdict
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..site import version

# What runs a module with its hooks: these have seen the taped outputs. Torch 2.0 has no such method
# that an instance could shadow.
CALL = '_call_impl' if hasattr(nn.Module, '_wrapped_call_impl') else 'forward'
COMPILED = '_compiled_call_impl'  # what runs instead after `module.compile()`
_TENSOR = object()  # stands for a tensor of the tape
_AGAIN = object()  # stands for a result that was overwritten after it was recorded


class Tape:
    """What the submodules of a module returned before a point was reached.

    Args:
        root: The module whose submodules are recorded, itself left out.
    """

    def __init__(self, root: nn.Module):
        self._root = root
        self._modules: List[nn.Module] = []
        self._leaves: List[Any] = []
        self._calls: List[Tuple[nn.Module, Any, List[int]]] = []
        self._open = True

    @contextmanager
    def record(self, on_call: Callable[[], None]) -> Iterator['Tape']:
        """Inside, completed calls of submodules are recorded until :meth:`close`.

        Args:
            on_call: Is called before each of them, and before those after.
        """

        def recorded(module: nn.Module) -> Callable:
            compute = call_of(module)

            def call(*args, **kwargs) -> Any:
                on_call()
                inside = self.mark()
                output = compute(*args, **kwargs)
                if self._open:
                    self.forget_since(inside)  # the outer call answers for them
                    self._calls.append((module, output, _versions(output)))
                return output

            return call

        with shadowed((m, recorded(m)) for m in self._root.modules() if m is not self._root):
            yield self

    def mark(self) -> int:
        """A moment in the run, for :meth:`forget_since`."""
        return len(self._calls)

    def forget_since(self, moment: int) -> None:
        """Drop the calls since then: the caller answers for all of them."""
        del self._calls[moment:]

    def close(self, arguments: Any) -> List[Tensor]:
        """The point has been reached; hand out every tensor of the tape, and keep none.

        Args:
            arguments: Those of the recorded run, packed.

        Returns:
            The tensors in ``arguments`` and on the tape. :meth:`replay` wants tensors in the same
            order.
        """
        self._open = False
        outputs = [
            output if _versions(output) == versions else _AGAIN
            for _, output, versions in self._calls
        ]
        leaves, self._structure = tree_flatten((arguments, pack(outputs)))
        self._modules = [module for module, _, _ in self._calls]
        self._calls.clear()
        self._leaves = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    @contextmanager
    def replay(self, tensors: Sequence[Tensor]) -> Iterator[Any]:
        """Inside, recorded calls are answered from the tape instead of being computed; yields the
        arguments.
        """
        tensors = iter(tensors)
        leaves = [next(tensors) if leaf is _TENSOR else leaf for leaf in self._leaves]
        arguments, outputs = tree_unflatten(leaves, self._structure)
        answers: Dict[nn.Module, List[Any]] = defaultdict(list)
        for module, output in zip(self._modules, outputs):
            answers[module].append(unpack(output))
        calls = ((module, answered(taped, call_of(module))) for module, taped in answers.items())
        with shadowed(calls):
            yield unpack(arguments)


def call_of(module: nn.Module) -> Callable:
    """What runs a module with its hooks, compiled if it is."""
    return getattr(module, COMPILED, None) or getattr(module, CALL)


@contextmanager
def shadowed(calls: Iterable[Tuple[nn.Module, Callable]]) -> Iterator[None]:
    """Inside, a call of each module is one of what stands beside it, without the module's hooks."""
    before = []
    try:
        for module, call in calls:
            own = module.__dict__
            before.append((own, own.get(CALL, shadowed), own.get(COMPILED, shadowed)))
            own[CALL], own[COMPILED] = call, None
        yield
    finally:
        for own, *values in before:
            for key, value in zip((CALL, COMPILED), values):
                if value is shadowed:  # stands for "was not there"
                    del own[key]
                else:
                    own[key] = value


def answered(taped: Sequence[Any], compute: Callable) -> Callable:
    """A method that gives the taped results in their order, and computes after that."""
    remaining = iter(taped)

    def forward(*args, **kwargs) -> Any:
        for output in remaining:
            return compute(*args, **kwargs) if output is _AGAIN else output
        return compute(*args, **kwargs)

    return forward


def _versions(output: Any) -> List[int]:
    """How often each tensor in a result has been written to."""
    if isinstance(output, Tensor):
        return [version(output)]
    return [version(leaf) for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]


class Packed(NamedTuple):
    """A data element, taken apart; pytrees look into it."""

    make: Callable[[], BaseDataElement]
    fields: Dict[str, Any]


def pack(value: Any) -> Any:
    """Take the data elements in lists, tuples and dicts apart; tensors are shared."""
    if isinstance(value, BaseDataElement):
        return Packed(
            partial(type(value), metainfo=value.metainfo),
            {key: pack(field) for key, field in value.items()},
        )
    return _each(pack, value)


def unpack(value: Any) -> Any:
    """Make data elements of what :func:`pack` gave: new ones, since hosts rename and replace fields
    of theirs.
    """
    if isinstance(value, Packed):
        element = value.make()
        for key, field in value.fields.items():
            setattr(element, key, unpack(field))
        return element
    return _each(unpack, value)


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: change(part) for key, part in value.items()}
    if type(value) in (list, tuple):  # not a host's own kind of tuple
        return type(value)(change(part) for part in value)
    return value
