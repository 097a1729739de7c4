"""Context managers that keep the adversarial passes from leaving traces in the host."""

import random
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, Collection, Iterator, List, Optional

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmengine.model import BaseAveragedModel
from torch import Tensor, nn

from .host_state import Buffers, attributes_of

PROGRESS = ('iter', 'epoch')
DONE = 10**9  # later than any warm-up


class RandomStreams:
    """Where every random stream that a model may draw from stands now.

    Args:
        device: Whose stream is one of them, beside those of Python, NumPy and torch on the CPU.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._python, self._numpy = random.getstate(), np.random.get_state()
        self._torch = torch.get_rng_state()
        self._module = _streams_of(device)
        self._own = self._module.get_rng_state(device) if self._module is not None else None

    def restore(self) -> None:
        """Let the streams go on from there."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._module is not None:
            self._module.set_rng_state(self._own, self._device)


def _streams_of(device: torch.device) -> Optional[ModuleType]:
    """What torch has for an accelerator's random stream: ``torch.cuda``, ``torch.xpu``; None where
    the stream is the CPU's, and for MPS, whose functions know no device.
    """
    module = getattr(torch, device.type, None) if device.type not in ('cpu', 'mps') else None
    return module if hasattr(module, 'get_rng_state') else None


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
        module = _streams_of(device)
        if module is not None:
            with module.device(device):  # the one that is seeded
                module.manual_seed(seed)
        yield
    finally:
        before.restore()


@contextmanager
def restored_state(model: nn.Module, but_for: Collection[nn.Module] = ()) -> Iterator[None]:
    """What modules count, collect or average while they train is afterwards as it was before.

    Every buffer (running statistics, power iterations, histories) is copied back in place, through
    ``.data``: a graph that has saved it for its backward must not find it changed. Attributes of
    the host's own modules, with the containers, plain objects and random streams in them, are put
    back where they changed. What cannot be written in place, such as an expanded buffer, stays as
    it is. Momentum encoders of the host, :class:`mmengine.model.BaseAveragedModel`, are not updated
    inside.

    Args:
        model: The host.
        but_for: Modules whose buffers keep what they become. Defaults to none.
    """
    kept, modules = set(but_for), list(model.modules())
    buffers = Buffers([module for module in modules if module not in kept])
    attributes = attributes_of(modules)
    try:
        with ExitStack() as stack:
            for module in modules:
                if isinstance(module, BaseAveragedModel):
                    stack.enter_context(replaced(module, update_parameters=_not_updated))
            yield
    finally:
        buffers.restore()
        attributes.restore()


def _not_updated(model: nn.Module) -> None:
    """In place of the method of an averaged model that moves it towards a model."""


@contextmanager
def replaced(owner: Any, **methods: Any) -> Iterator[None]:
    """Shadow methods of one object inside; its class and its copies never see it."""
    with ExitStack() as stack:
        for name, method in methods.items():
            before = owner.__dict__.get(name, replaced)  # `replaced` stands for "was not there"
            owner.__dict__[name] = method
            stack.callback(_restore, owner, name, before)
        yield


@contextmanager
def at_the_end() -> Iterator[None]:
    """Inside, whoever asks how far the training is, where there is none, finds it done."""
    known = MessageHub.get_current_instance().runtime_info
    before = {key: known[key] for key in PROGRESS if key in known}
    known.update(dict.fromkeys(PROGRESS, DONE))
    try:
        yield
    finally:
        for key in PROGRESS:
            del known[key]
        known.update(before)


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
