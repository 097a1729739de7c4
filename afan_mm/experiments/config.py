"""An experiment: which configs are trained how often, what is measured, and what is compared.

It is a config file of mmengine that sets (only ``base`` and ``arms`` are required)::

    base = '../deeplabv3plus/deeplabv3plus_r18-d8_1xb4-250_camvid-240x180.py'  # from this file
    arms = dict(
        stock=dict(),
        afan=dict(config='../deeplabv3plus/afan_deeplabv3plus_….py'),  # or overrides of the base
        control=dict(of='afan'),                # a reference, see references.py
        longer=dict(of='afan', factor=2.3),     # without factor: as measured on the first seed
        scaled_late=dict(reference='scaled', of='late'),
    )
    grid = dict(afan={'model.neck.afan.num_steps': [1, 3, 5]})  # arms afan-num_steps=1, …
    common = {'train_cfg.max_iters': 500}       # overrides of every arm
    seeds = [0, 1, 2, 3, 4]
    measures = ['stock', dict(type='robust', num_images=20)]
    primary = 'mIoU'
    larger_is_better = True
    references = ['stock', 'control']           # names or kinds of arms; default: all there are
    metrics = ['mIoU', 'aAcc']                  # in the report; default: all
    selection = dict(split='half', seed=0)      # see data.py
    curve_interval = 100                        # evaluate on the selection half; default: never
    keep_checkpoints = False

Overrides have dotted keys, as in ``--cfg-options``, or nested dicts, in which ``_delete_=True``
replaces instead of merging.
"""

import fnmatch
import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from mmengine.config import Config

from .references import KINDS


@dataclass
class ArmSpec:
    """An arm as the experiment has it.

    Attributes:
        config: A config of its own instead of the base.
        overrides: What is merged into it, in this order.
        reference: The kind of a reference, see :mod:`.references`; None for an arm of its own.
        of: The arm that it is a reference of.
        factor: Of 'longer': times the iterations; None to measure it.
        parent: Of an arm of a grid: the arm that it varies.
    """

    name: str
    config: Optional[Path] = None
    overrides: List[dict] = field(default_factory=list)
    reference: Optional[str] = None
    of: Optional[str] = None
    factor: Optional[float] = None
    parent: Optional[str] = None


@dataclass
class Experiment:
    """The content of an experiment file; keys as in the module's docstring."""

    name: str
    base: Path
    common: dict
    arms: Dict[str, ArmSpec]
    seeds: List[int]
    measures: List[dict]
    primary: Optional[str]
    larger_is_better: bool
    references: List[str]
    metrics: Optional[List[str]]
    selection: dict
    curve_interval: Optional[int]
    keep_checkpoints: bool


class ExperimentError(ValueError):
    """An experiment file, or a choice from it, cannot be used; one line says why."""


DEFAULTS: Dict[str, Any] = dict(
    grid={},
    common={},
    seeds=[0],
    measures=['stock'],
    primary=None,
    larger_is_better=True,
    references=None,
    metrics=None,
    selection=dict(split='half', seed=0),
    curve_interval=None,
    keep_checkpoints=False,
)


def read_experiment(path: str) -> Experiment:
    """Read an experiment file.

    Raises:
        ExperimentError: A key is unknown or wrong.
    """
    file = Path(path)
    if not file.is_file():
        raise ExperimentError(f'experiment must be a file, but got {path}')
    content = Config.fromfile(path)._cfg_dict.to_dict()
    unknown = sorted(set(content) - set(DEFAULTS) - {'base', 'arms'})
    if unknown or not {'base', 'arms'} <= set(content):
        raise ExperimentError(
            f"{path} must set 'base' and 'arms' and may set {sorted(DEFAULTS)}; it sets "
            f'{sorted(content)}'
        )
    keys = {**DEFAULTS, **content}
    grid, common = keys.pop('grid'), keys['common']
    keys['base'] = file.parent / keys['base']
    keys['measures'] = [dict(type=m) if isinstance(m, str) else m for m in keys['measures']]
    arms = _expand_grid(_arms(keys['arms'], common, file.parent), grid)
    _check_references(arms)
    if keys['references'] is None:
        keys['references'] = [name for name, arm in arms.items() if arm.reference]
    known = {*arms, *(arm.reference for arm in arms.values())}
    for name in keys['references']:
        if name not in known:
            raise ExperimentError(f'references must be among {sorted(arms)}, but got {name!r}')
    return Experiment(name=file.stem, **{**keys, 'arms': arms})


def select_arms(experiment: Experiment, patterns: Optional[Sequence[str]]) -> List[str]:
    """The names of the arms that match one of the patterns, such as 'afan*'; all without
    patterns.
    """
    if not patterns:
        return list(experiment.arms)
    for pattern in patterns:
        if not fnmatch.filter(experiment.arms, pattern):
            raise ExperimentError(
                f'arms must be among {", ".join(experiment.arms)}, but got {pattern!r}'
            )
    return [n for n in experiment.arms if any(fnmatch.fnmatch(n, p) for p in patterns)]


def _arms(arms: Dict[str, dict], common: dict, folder: Path) -> Dict[str, ArmSpec]:
    specs: Dict[str, ArmSpec] = {}
    for name, arm in arms.items():
        arm = dict(arm)
        config, factor = arm.pop('config', None), arm.pop('factor', None)
        kind = arm.pop('reference', name if name in KINDS else None)
        of = arm.pop('of', None)
        for each in of if isinstance(of, (list, tuple)) else [of]:
            full = f'{name}-{each}' if isinstance(of, (list, tuple)) else name
            specs[full] = ArmSpec(
                name=full,
                config=None if config is None else folder / config,
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
        for values in itertools.product(*axes.values()):
            name = '-'.join([prefix, *(_label(*each) for each in zip(axes, values))])
            changes = {k.strip(): v for keys, v in zip(axes, values) for k in keys.split(',')}
            arms[name] = ArmSpec(
                name=name,
                config=base.config,
                overrides=[*base.overrides, changes],
                parent=prefix,
            )
        if base.reference is None and not any(arm.of == prefix for arm in arms.values()):
            del arms[prefix]
    return arms


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
        needs_of = not (arm.reference == 'longer' and arm.factor is not None)
        if (needs_of or arm.of is not None) and (
            arm.of not in arms or arms[arm.of].reference is not None
        ):
            others = [name for name, each in arms.items() if each.reference is None]
            raise ExperimentError(
                f'of of arm {arm.name} must be one of {others}, but got {arm.of!r}'
            )
