"""The sites that the modules of a model declare, each in its attribute ``afan``."""

from typing import Any, Iterator, List, Tuple

from mmengine.model import BaseModel
from torch import nn

from .settings import AFANSettings


def declared_by(module: Any) -> List[AFANSettings]:
    """The settings of the sites that a module declares in its attribute ``afan``, which holds one
    or a list of them.
    """
    declared = getattr(module, 'afan', None)
    return [
        s
        for s in (declared if isinstance(declared, (list, tuple)) else [declared])
        if isinstance(s, AFANSettings)
    ]


def trained_modules(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    """The modules of a model by path, but for another model in it that is frozen: a teacher has no
    sites.
    """
    modules = list(model.named_modules())
    frozen = tuple(
        f'{path}.'
        for path, module in modules
        if path
        and isinstance(module, BaseModel)
        and not any(p.requires_grad for p in module.parameters())
    )
    for path, module in modules:
        if not (frozen and f'{path}.'.startswith(frozen)):
            yield path, module


def declared_sites(model: nn.Module) -> List[Tuple[str, AFANSettings]]:
    """The path of the module that declares a site, and its settings, for all sites of a model."""
    return [
        (path, settings)
        for path, module in trained_modules(model)
        for settings in declared_by(module)
    ]
