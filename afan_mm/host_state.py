"""State that a host keeps beside its parameters, as it is and put back: attributes of its modules,
what is in them, and random streams of its own.
"""

import inspect
from collections import OrderedDict, deque
from functools import partial
from typing import Any, Callable, FrozenSet, List, Optional, Set, Tuple, Union

import numpy as np
import torch
from torch import Tensor, nn

OF_EVERY_MODULE = frozenset(vars(nn.Module()))
# their objects hold nothing that training counts
_NO_METERS = ('builtins', 'torch', 'mmengine', 'functools', 'collections', 'logging', 're')
# by name: a compiler that traces a step cannot ask for an instance of these
_STREAMS = {
    'torch._C.Generator': ('get_state', 'set_state'),
    'numpy.random.mtrand.RandomState': ('get_state', 'set_state'),
    'random.Random': ('getstate', 'setstate'),
}


def is_writable(value: Union[Tensor, np.ndarray]) -> bool:
    """Whether its elements can be set: not those of a read-only array, nor of an expanded tensor,
    several of which are one.
    """
    if isinstance(value, np.ndarray):
        return value.flags.writeable
    if value.layout != torch.strided:
        return True
    return all(step or size == 1 for step, size in zip(value.stride(), value.shape))


def _rewinding(value: Any) -> Optional[Callable[[], None]]:
    """Sets a random stream of the host's own back to where it is now; None for anything else."""
    kind = f'{type(value).__module__}.{type(value).__name__}'
    if kind == 'numpy.random._generator.Generator':
        bits = value.bit_generator
        return partial(setattr, bits, 'state', bits.state)
    if kind not in _STREAMS:
        return None
    get, put = _STREAMS[kind]
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
