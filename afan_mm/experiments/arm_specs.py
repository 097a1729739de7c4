"""The arms of an experiment file: references, and what a grid expands to."""

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Collection, Dict, List, Optional

from ..utils.errors import UsageError
from .references import KINDS


class ExperimentError(UsageError):
    """An experiment file, or a choice from it, cannot be used; one line says why."""


@dataclass
class ArmSpec:
    """An arm as the experiment has it.

    Attributes:
        config: A config of its own instead of the base, see :func:`in_folder`.
        overrides: What is merged into it, in this order.
        reference: The kind of a reference, see :mod:`.references`; None for an arm of its own.
        of: The arm that it is a reference of.
        factor: Times the iterations. Of 'longer' None measures it.
        parent: Of an arm of a grid: the arm that it varies.
    """

    name: str
    config: Optional[str] = None
    overrides: List[dict] = field(default_factory=list)
    reference: Optional[str] = None
    of: Optional[str] = None
    factor: Optional[float] = None
    parent: Optional[str] = None


def arm_specs(
    arms: Dict[str, dict], grid: Dict[str, dict], common: dict, folder: Path
) -> Dict[str, ArmSpec]:
    """All arms by name, those of the grid and of several references included.

    Args:
        arms, grid, common: As the file has them.
        folder: Of the file, from which paths count.
    """
    specs = _expand_grid(_arms(arms, common, folder), grid)
    _check_references(specs)
    return specs


def in_folder(folder: Path, config: str) -> str:
    """A config as a file names it: by the path from there, or as 'mmseg::NAME', one that a package
    installs.
    """
    return config if '::' in config else str(folder / config)


def _arms(arms: Dict[str, dict], common: dict, folder: Path) -> Dict[str, ArmSpec]:
    specs: Dict[str, ArmSpec] = {}
    for name, arm in arms.items():
        if not isinstance(arm, dict):
            raise ExperimentError(
                f"arm {name} must be a dict of overrides, such as dict(config='my_config.py'), but "
                f'got {arm!r}'
            )
        arm = dict(arm)
        config, factor = arm.pop('config', None), arm.pop('factor', None)
        kind = arm.pop('reference', name if name in KINDS else None)
        of = arm.pop('of', None)
        if not isinstance(config, (str, type(None))):
            raise ExperimentError(f'config of arm {name} must be a path, but got {config!r}')
        for each in of if isinstance(of, (list, tuple)) else [of]:
            full = f'{name}-{each}' if isinstance(of, (list, tuple)) else name
            _check_new(full, specs, arms if full != name else ())
            specs[full] = ArmSpec(
                name=full,
                config=None if config is None else in_folder(folder, config),
                overrides=[arm] if kind not in (None, 'stock') else [common, arm],
                reference=kind,
                of=each,
                factor=factor,
            )
    return specs


def _expand_grid(arms: Dict[str, ArmSpec], grid: Dict[str, dict]) -> Dict[str, ArmSpec]:
    """Add an arm for each combination of values, and take away the arm that they vary, unless a
    reference is of it. A key of a grid may be several, with commas between.
    """
    arms = dict(arms)
    for prefix, axes in grid.items():
        base = arms.get(prefix)
        if base is None or base.reference not in (None, 'stock'):
            raise ExperimentError(f'grid must vary one of {sorted(arms)}, but got {prefix!r}')
        if not isinstance(axes, dict) or not all(
            isinstance(v, (list, tuple)) for v in axes.values()
        ):
            raise ExperimentError(
                f'grid of {prefix} must be a dict of lists of values by key, but got {axes!r}'
            )
        for values in itertools.product(*axes.values()):
            name = '-'.join([prefix, *(_label(*each) for each in zip(axes, values))])
            changes = {k.strip(): v for keys, v in zip(axes, values) for k in keys.split(',')}
            _check_new(name, arms)
            arms[name] = ArmSpec(
                name=name,
                config=base.config,
                overrides=[*base.overrides, changes],
                factor=base.factor,
                parent=prefix,
            )
        if base.reference is None and not any(arm.of == prefix for arm in arms.values()):
            del arms[prefix]
    return arms


def _check_new(name: str, *taken: Collection[str]) -> None:
    if any(name in each for each in taken):
        raise ExperimentError(
            f'arms must have names of their own, but there are two of the name {name!r}'
        )


def _label(key: str, value: Any) -> str:
    text = f'{value:.4g}' if isinstance(value, float) else str(value)
    return f'{key.split(",")[0].rsplit(".", 1)[-1]}={re.sub(r"[^A-Za-z0-9.+_]+", "_", text)}'


def _check_references(arms: Dict[str, ArmSpec]) -> None:
    for arm in arms.values():
        if arm.reference is not None and arm.reference not in KINDS:
            raise ExperimentError(
                f'reference of arm {arm.name} must be one of {KINDS}, but got {arm.reference!r}'
            )
        if arm.reference in (None, 'stock'):
            continue
        if arm.factor is not None and arm.reference != 'longer':
            raise ExperimentError(
                f'factor of arm {arm.name} must be that of the arm it is a {arm.reference} of, but '
                f'got {arm.factor!r}'
            )
        needs_of = not (arm.reference == 'longer' and arm.factor is not None)
        if (needs_of or arm.of is not None) and (
            arm.of not in arms or arms[arm.of].reference is not None
        ):
            others = [name for name, each in arms.items() if each.reference is None]
            raise ExperimentError(
                f'of of arm {arm.name} must be one of {others}, but got {arm.of!r}'
            )
