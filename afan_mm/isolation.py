"""Context managers that keep the adversarial passes from leaving traces in the host."""

import copy
import inspect
import random
from collections import deque
from contextlib import ExitStack, contextmanager
from types import CodeType
from typing import Any, Iterator, List

import numpy as np
import torch
from torch import nn


@contextmanager
def isolated_random(seed: int, device: torch.device) -> Iterator[None]:
    """Seed every random stream inside, restore them all outside.

    Dropout and samplers of an adversarial pass draw from the global streams; the host's next step
    must not notice.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [device] if device.type == 'cuda' else []
    with torch.random.fork_rng(devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Training-mode batch norms normalise by their own batch inside, but leave their running
    statistics alone.

    A momentum of zero would not do: ``0 * nan`` still reaches the buffer.
    """
    norms = [m for m in model.modules() if m.training and getattr(m, 'track_running_stats', False)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def restored_state(model: nn.Module) -> Iterator[None]:
    """What modules count, collect or average while they train is afterwards as it was before.

    Dynamic R-CNN keeps a history, seesaw loss counts samples, an EMA head moves its bases. Batch
    norms are left to :func:`frozen_statistics`, which costs no copy.
    """
    hosts = [
        m
        for m in model.modules()
        if not type(m).__module__.startswith('torch.') and not hasattr(m, 'track_running_stats')
    ]
    attributes = [
        (vars(host), key, value)
        for host in hosts
        for key, value in vars(host).items()
        if key not in _OF_EVERY_MODULE
    ]
    contents = [
        (value, copy.copy(value))
        for _, _, value in attributes
        if isinstance(value, (list, dict, set, deque))
    ]
    buffers = [
        (host._buffers, key, value, value._version, value.clone())
        for host in hosts
        for key, value in host._buffers.items()
        if value is not None
    ]
    try:
        yield
    finally:
        for owner, key, value in attributes:
            owner[key] = value
        for value, before in contents:
            value.clear()
            (value.update if isinstance(value, (dict, set)) else value.extend)(before)
        for owner, key, value, version, before in buffers:
            owner[key] = value
            if value._version != version:
                with torch.no_grad():
                    value.copy_(before)


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


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


LIBRARIES = ('torch', 'torchvision', 'timm', 'mmcv', 'mmengine', 'mmpretrain', 'builtins')
LAYERS = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.MultiheadAttention)


@contextmanager
def evaluation_mode(model: nn.Module, training: List[nn.Module]) -> Iterator[None]:
    """Every module in evaluation mode inside but those in ``training``; outside, all flags and
    other state as they were.
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        for module in training:
            module.training = True
        with restored_state(model):
            yield
    finally:
        for module, flag in flags:
            module.training = flag


def flow_modules(model: nn.Module) -> List[nn.Module]:
    """Modules that choose by ``self.training`` *what* they compute, rather than how a layer
    behaves.

    A detector such as DINO builds what its loss needs only where the flag says training, and FCOS
    scales its boxes for the loss or for the prediction by it: their loss in plain evaluation mode
    fails, or is another one. The hosts' own classes whose code reads the flag are therefore the
    only ones that see it set. Layers never do: norms, dropout, drop path and whatever else comes
    from torch, mmcv and other libraries.
    """
    return [
        module
        for module in model.modules()
        if not _is_layer(module) and any(map(_reads_flag, _own_classes(module)))
    ]


def _own_classes(module: nn.Module) -> List[type]:
    return [cls for cls in type(module).__mro__ if cls.__module__.split('.')[0] not in LIBRARIES]


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, LAYERS) or type(module).__name__.startswith('Drop')


def _reads_flag(cls: type) -> bool:
    functions = (
        inspect.unwrap(getattr(value, '__func__', getattr(value, 'fget', value)))
        for value in vars(cls).values()
    )
    return any(
        _mentions(function.__code__) for function in functions if inspect.isfunction(function)
    )


def _mentions(code: CodeType) -> bool:
    """Whether a function, or one within it, has ``something.training``."""
    return 'training' in code.co_names or any(
        _mentions(const) for const in code.co_consts if isinstance(const, CodeType)
    )
