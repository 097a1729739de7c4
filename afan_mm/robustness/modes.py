"""A model in evaluation mode whose training loss can still be computed, and that keeps no trace of
it.
"""

import inspect
from contextlib import contextmanager
from types import CodeType
from typing import Iterator, List

from torch import nn

from ..isolation import restored_state

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
