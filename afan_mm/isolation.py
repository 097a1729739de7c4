"""Context managers that keep the adversarial passes from leaving traces in the host."""

import inspect
import random
from collections import deque
from contextlib import ExitStack, contextmanager
from typing import Any, Collection, FrozenSet, Iterator, List, Set, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RandomStreams:
    """Where every random stream that a model may draw from stands now.

    Args:
        device: Whose stream is one of them, beside those of Python, NumPy and torch on the CPU.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._python, self._numpy = random.getstate(), np.random.get_state()
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == 'cuda' else None

    def restore(self) -> None:
        """Let the streams go on from there."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)


@contextmanager
def isolated_random(seed: int, device: torch.device) -> Iterator[None]:
    """Seed every random stream inside, restore them all outside.

    Dropout and samplers of an adversarial pass draw from the global streams; the host's next step
    must not notice.
    """
    before = RandomStreams(device)
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        if device.type == 'cuda':
            with torch.cuda.device(device):  # the one that is seeded
                torch.cuda.manual_seed(seed)
        yield
    finally:
        before.restore()


@contextmanager
def restored_state(model: nn.Module, but_for: Collection[nn.Module] = ()) -> Iterator[None]:
    """What modules count, collect or average while they train is afterwards as it was before.

    Every buffer (running statistics, power iterations, histories) is copied back in place, through
    ``.data``: a graph that has saved it for its backward must not find it changed. Attributes of
    the host's own modules, with the containers and plain objects in them, are put back where they
    changed.

    Args:
        model: The host.
        but_for: Modules whose buffers keep what they become. Defaults to none.
    """
    kept = set(but_for)
    buffers = {
        id(buffer): (owner._buffers, key, buffer, buffer.detach().clone())
        for owner in model.modules()
        if owner not in kept
        for key, buffer in owner._buffers.items()
        if buffer is not None
    }
    before = _Attributes()
    for module in model.modules():
        if not type(module).__module__.startswith('torch.'):
            before.add(vars(module), _OF_EVERY_MODULE)
    try:
        yield
    finally:
        for owner, key, buffer, values in buffers.values():
            if owner[key] is not buffer:
                owner[key] = buffer
            buffer.data.copy_(values)
        before.restore()


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
# their objects hold nothing that training counts
_NO_METERS = ('builtins', 'torch', 'mmengine', 'functools', 'collections', 'logging', 're')


def _is_of(value: Any, libraries: Tuple[str, ...]) -> bool:
    return type(value).__module__.partition('.')[0] in libraries


class _Attributes:
    """The content of dicts, lists, sets, and of what is inside them, by reference."""

    def __init__(self):
        self._seen: Set[int] = set()
        self._dicts: List[Tuple[dict, dict, FrozenSet[str]]] = []
        self._others: List[Tuple[Any, Any]] = []
        self._values: List[Tuple[Any, Any]] = []

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
            if value.grad_fn is None and not isinstance(value, nn.Parameter):
                self._values.append((value, value.detach().clone()))
        elif isinstance(value, np.ndarray):
            self._values.append((value, value.copy()))
        elif not (_is_of(value, _NO_METERS) or inspect.isroutine(value)):
            self.add(getattr(value, '__dict__', {}))

    def restore(self) -> None:
        """Put back what has changed since."""
        for owner, content, but_for in self._dicts:
            now = {key: value for key, value in dict.items(owner) if key not in but_for}
            for key in now.keys() - content.keys():
                dict.__delitem__(owner, key)
            for key, value in content.items():
                if key not in now or now[key] is not value:
                    dict.__setitem__(owner, key, value)
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


@contextmanager
def replaced(owner: Any, **methods: Any) -> Iterator[None]:
    """Shadow methods of one object inside; its class and its copies never see it."""
    with ExitStack() as stack:
        for name, method in methods.items():
            before = owner.__dict__.get(name, replaced)  # `replaced` stands for "was not there"
            owner.__dict__[name] = method
            stack.callback(_restore, owner, name, before)
        yield


def _restore(owner: Any, name: str, before: Any) -> None:
    if before is replaced:
        del owner.__dict__[name]
    else:
        owner.__dict__[name] = before


# Layers are theirs; they behave the same in every pass of an evaluation.
LIBRARIES = ('torch', 'torchvision', 'timm', 'mmcv', 'mmengine', 'mmpretrain')
LAYERS = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.MultiheadAttention)
DROPOUTS = (
    'dropout',
    'dropout1d',
    'dropout2d',
    'dropout3d',
    'alpha_dropout',
    'feature_alpha_dropout',
)


@contextmanager
def evaluation_mode(model: nn.Module, training: Collection[nn.Module] = ()) -> Iterator[None]:
    """Every module in evaluation mode inside but those in ``training``, and no dropout, whoever
    asks for it; outside, all flags and other state as they were.
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        for module in training:
            module.training = True
        with restored_state(model), replaced(F, **dict.fromkeys(DROPOUTS, _kept)):
            yield
    finally:
        for module, flag in flags:
            module.training = flag


def _kept(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return input


def flow_modules(model: nn.Module) -> List[nn.Module]:
    """Modules that may choose by ``self.training`` *what* they compute, rather than how a layer
    behaves: those of the host's own classes that are no layers.

    A detector such as DINO builds what its loss needs only where the flag says training, and FCOS
    scales its boxes for the loss or for the prediction by it: their loss in plain evaluation mode
    fails, or is another one. Layers never see it set: norms, dropout, drop path and whatever else
    comes from torch, mmcv and other libraries.
    """
    return [
        module
        for module in model.modules()
        if type(module).__module__.partition('.')[0] not in LIBRARIES
        and not isinstance(module, LAYERS)
        and not type(module).__name__.startswith('Drop')
    ]
