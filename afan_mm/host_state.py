"""State that a host keeps beside its parameters, as it is and put back: buffers and attributes of
its modules, what is in these, and random streams of its own.
"""

import inspect
import random
from collections import OrderedDict, defaultdict, deque
from functools import partial
from typing import Any, Callable, FrozenSet, Iterable, List, Optional, Sequence, Set, Tuple, Union

import numpy as np
import torch
from torch import Tensor, nn

try:
    from torch.compiler import disable
except ImportError:  # before torch 2.1
    from torch._dynamo import disable

OF_EVERY_MODULE = frozenset(vars(nn.Module()))
# their objects hold nothing that training counts
_NO_METERS = ('builtins', 'torch', 'mmengine', 'functools', 'collections', 'logging', 're')
_STREAMS = {
    torch.Generator: ('get_state', 'set_state'),
    np.random.RandomState: ('get_state', 'set_state'),
    random.Random: ('getstate', 'setstate'),
}


def is_writable(value: Union[Tensor, np.ndarray]) -> bool:
    """Whether its elements can be set: not those of a read-only array, nor of an expanded tensor,
    several of which are one.
    """
    if isinstance(value, np.ndarray):
        return value.flags.writeable
    if value.layout != torch.strided or value.is_contiguous():
        return True
    return all(step or size == 1 for step, size in zip(value.stride(), value.shape))


class Buffers:
    """What is in the buffers of modules; nothing of one that cannot be written to.

    Args:
        modules: Whose own buffers they are.
    """

    def __init__(self, modules: Iterable[nn.Module]):
        self._places = [
            (module._buffers, key, buffer)
            for module in modules
            for key, buffer in module._buffers.items()
            if buffer is not None
        ]
        kinds = defaultdict(list)
        for buffer in {id(buffer): buffer for _, _, buffer in self._places}.values():
            if is_writable(buffer):
                kinds[buffer.dtype, buffer.device].append(buffer)
        # those of a kind in one kernel, as a model has hundreds of small ones
        self._kinds = [
            (buffers, [torch.empty_like(buffer) for buffer in buffers])
            for buffers in kinds.values()
        ]
        for buffers, contents in self._kinds:
            _foreach_copy(contents, _data(buffers))

    def restore(self) -> None:
        """Put it back, and the buffers that were replaced."""
        for owner, key, buffer in self._places:
            if owner[key] is not buffer:
                owner[key] = buffer
        for buffers, contents in self._kinds:
            _foreach_copy(_data(buffers), contents)


def _data(buffers: Sequence[Tensor]) -> List[Tensor]:
    """What to write to; what is written to the data of a sparse tensor does not reach the
    tensor.
    """
    return [buffer.data if buffer.layout == torch.strided else buffer for buffer in buffers]


def _one_by_one(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources):
        target.copy_(source)


_foreach_copy = getattr(torch, '_foreach_copy_', _one_by_one)  # from torch 2.1 on


def _rewinding(value: Any) -> Optional[Callable[[], None]]:
    """Sets a random stream of the host's own back to where it is now; None for anything else."""
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return partial(setattr, bits, 'state', bits.state)
    if type(value) not in _STREAMS:
        return None
    get, put = _STREAMS[type(value)]
    return partial(getattr(value, put), getattr(value, get)())


def _is_of(value: Any, libraries: Tuple[str, ...]) -> bool:
    return type(value).__module__.partition('.')[0] in libraries


class Attributes:
    """The content of dicts, lists, sets, and of what is inside them, by reference."""

    def __init__(self):
        self._seen: Set[int] = set()
        self._dicts: List[Tuple[dict, dict, FrozenSet[str]]] = []
        self._others: List[Tuple[Any, Any]] = []
        self._values: List[Tuple[Any, Any]] = []
        self._streams: List[Callable[[], None]] = []

    def add(self, owner: dict, but_for: FrozenSet[str] = frozenset()) -> None:
        """A dict as it is, and what is in it."""
        content = {key: value for key, value in dict.items(owner) if key not in but_for}
        self._dicts.append((owner, content, but_for))
        for value in content.values():
            self._look_into(value)

    def _look_into(self, value: Any) -> None:
        if value is None or isinstance(value, (bool, int, float, str, type, nn.Module)):
            return
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, dict):
            self.add(value)
        elif isinstance(value, (list, set, deque, tuple)):
            if not isinstance(value, tuple):
                self._others.append((value, list(value)))
            for part in value:
                self._look_into(part)
        elif isinstance(value, Tensor):
            is_state = value.grad_fn is None and not isinstance(value, nn.Parameter)
            if is_state and is_writable(value):
                self._values.append((value, value.detach().clone()))
        elif isinstance(value, np.ndarray):
            if is_writable(value):
                self._values.append((value, value.copy()))
        else:
            rewind = _rewinding(value)
            if rewind is not None:
                self._streams.append(rewind)
            elif not (_is_of(value, _NO_METERS) or inspect.isroutine(value)):
                self.add(getattr(value, '__dict__', {}))

    @disable
    def restore(self) -> None:
        """Put back what has changed since."""
        for owner, content, but_for in self._dicts:
            # not what a host's own class may have made of these methods
            kind = OrderedDict if isinstance(owner, OrderedDict) else dict
            now = {key: value for key, value in dict.items(owner) if key not in but_for}
            for key in now.keys() - content.keys():
                kind.__delitem__(owner, key)
            for key, value in content.items():
                if key not in now or now[key] is not value:
                    kind.__setitem__(owner, key, value)
        for container, content in self._others:
            if len(container) != len(content) or any(
                a is not b for a, b in zip(container, content)
            ):
                container.clear()
                (container.update if isinstance(container, set) else container.extend)(content)
        for value, content in self._values:
            if isinstance(value, Tensor):
                value.data.copy_(content)
            else:
                np.copyto(value, content)
        for rewind in self._streams:
            rewind()


@disable  # a compiler that traces the step has nothing to find here
def attributes_of(modules: Iterable[nn.Module]) -> Attributes:
    """Those of the host's own modules as they are now; torch's keep nothing but tensors."""
    attributes = Attributes()
    for module in modules:
        if not type(module).__module__.startswith('torch.'):
            attributes.add(vars(module), OF_EVERY_MODULE)
    return attributes
