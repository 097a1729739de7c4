"""The stages of a backbone, as they show when it runs."""

from typing import Iterator, List, Tuple

from torch import nn

from .tail_share import Meter

OPENED = 0.8  # a module with more of a backbone's operations is no stage, but holds them
NOTICED = 0.02  # one with less, such as a layer between two stages, is none


def inner_modules(backbone: nn.Module, path: str) -> Iterator[Tuple[str, nn.Module]]:
    """What may be a stage: the modules in a backbone that consist of others, by path."""
    for name, module in backbone.named_modules():
        if name and any(True for _ in module.children()):
            yield f'{path}.{name}', module


def stages(backbone: nn.Module, meter: Meter, path: str) -> List[str]:
    """The paths of the outermost modules in a backbone that consist of others and run once each, in
    the order in which they return.

    Args:
        backbone: Where to look.
        meter: Has run the model, with the :func:`inner_modules` of the backbone as its points.
        path: Of the backbone.
    """
    found = _inside(backbone, meter, path, meter.within[backbone])
    return [name for name in meter.features if name in found]


def _inside(module: nn.Module, meter: Meter, path: str, whole: int) -> List[str]:
    found: List[str] = []
    for name, child in module.named_children():
        here, within = f'{path}.{name}', meter.within[child]
        is_one = meter.calls[child] == 1 and here in meter.features and within > NOTICED * whole
        # a list of modules is not run itself
        is_opened = meter.calls[child] == 0 or within > OPENED * whole
        inside = _inside(child, meter, here, whole) if is_opened else []
        found += inside or [here] * is_one
    return found
