"""An experiment: which configs are trained how often, what is measured, and what is compared.

It is a config file of mmengine that sets (only ``base`` and ``arms`` are required)::

    base = '../deeplabv3plus/deeplabv3plus_r18-d8_1xb4-250_camvid-240x180.py'  # from this file, or
                                                # one that a package installs, 'mmseg::NAME'
    arms = dict(
        stock=dict(),
        afan=dict(config='../deeplabv3plus/afan_deeplabv3plus_….py'),  # or overrides of the base
        control=dict(of='afan'),                # a reference, see references.py
        longer=dict(of='afan', factor=2.3),     # without factor: as measured on the first seed
        scaled_late=dict(reference='scaled', of='late'),
        afan_longer=dict(config='…', factor=2), # twice the iterations of its config
    )
    grid = dict(afan={'model.neck.afan.num_steps': [1, 3, 5]})  # arms afan-num_steps=1, …
    common = {'train_cfg.max_iters': 500}       # overrides of every arm
    seeds = [0, 1, 2, 3, 4]
    measures = ['stock', dict(type='robust', num_images=20)]
    primary = 'mIoU'
    larger_is_better = True                     # of the primary; default: by its name
    references = ['stock', 'control']           # names or kinds of arms; default: all there are
    metrics = ['mIoU', 'aAcc']                  # in the report; default: all
    selection = dict(split='half', seed=0)      # see data.py
    curve_interval = 100                        # evaluate on the selection half; default: never
    keep_checkpoints = False
    custom_imports = dict(imports=['my_measures'])  # modules that register measures

Overrides have dotted keys, as in ``--cfg-options``, or nested dicts, in which ``_delete_=True``
replaces instead of merging.
"""

import fnmatch
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from ..utils.configs import read_config
from .arm_specs import ArmSpec, ExperimentError, arm_specs, in_folder


@dataclass
class Experiment:
    """The content of an experiment file; keys as in the module's docstring."""

    name: str
    base: str
    common: dict
    arms: Dict[str, ArmSpec]
    seeds: List[int]
    measures: List[dict]
    primary: Optional[str]
    larger_is_better: Optional[bool]
    references: List[str]
    metrics: Optional[List[str]]
    selection: dict
    curve_interval: Optional[int]
    keep_checkpoints: bool
    custom_imports: dict = field(default_factory=dict)


DEFAULTS: Dict[str, Any] = dict(
    grid={},
    common={},
    seeds=[0],
    measures=['stock'],
    primary=None,
    larger_is_better=None,
    references=None,
    metrics=None,
    selection=dict(split='half', seed=0),
    curve_interval=None,
    keep_checkpoints=False,
    custom_imports={},
)


LISTS, NONE = (list, tuple), type(None)
TYPES: Dict[str, tuple] = dict(
    base=(str,),
    arms=(dict,),
    grid=(dict,),
    common=(dict,),
    seeds=(*LISTS, range),
    measures=LISTS,
    primary=(str, NONE),
    larger_is_better=(bool, NONE),
    references=(*LISTS, NONE),
    metrics=(*LISTS, NONE),
    selection=(dict,),
    curve_interval=(int, NONE),
    keep_checkpoints=(bool,),
    custom_imports=(dict,),
)


def read_experiment(path: str) -> Experiment:
    """Read an experiment file.

    Raises:
        ExperimentError: A key is unknown or wrong.
    """
    file = Path(path)
    if not file.is_file():
        raise ExperimentError(f'experiment must be a file, but got {path}')
    content = read_config(path)._cfg_dict.to_dict()
    unknown = sorted(set(content) - set(DEFAULTS) - {'base', 'arms'})
    if unknown or not {'base', 'arms'} <= set(content):
        raise ExperimentError(
            f"{path} must set 'base' and 'arms' and may set {sorted(DEFAULTS)}; it sets "
            f'{sorted(content)}'
        )
    keys = {**DEFAULTS, **content}
    _check_types(keys)
    keys['base'] = in_folder(file.parent, keys['base'])
    keys['seeds'] = list(keys['seeds'])
    keys['measures'] = [dict(type=m) if isinstance(m, str) else m for m in keys['measures']]
    arms = arm_specs(keys['arms'], keys.pop('grid'), keys['common'], file.parent)
    if keys['references'] is None:
        keys['references'] = [name for name, arm in arms.items() if arm.reference]
    known = {*arms, *(arm.reference for arm in arms.values())}
    for name in keys['references']:
        if name not in known:
            raise ExperimentError(f'references must be among {sorted(arms)}, but got {name!r}')
    return Experiment(name=file.stem, **{**keys, 'arms': arms})


def _check_types(keys: Dict[str, Any]) -> None:
    for key, types in TYPES.items():
        if not isinstance(keys[key], types):
            names = ' or '.join('None' if each is NONE else each.__name__ for each in types)
            raise ExperimentError(f'{key} must be a {names}, but got {keys[key]!r}')
    for seed in keys['seeds']:
        if type(seed) is not int:
            raise ExperimentError(f'seeds must be integers, but got {seed!r}')
    for each in keys['measures']:
        if not isinstance(each, (str, dict)):
            raise ExperimentError(
                f'measures must be names, or dicts with a type and settings, but got {each!r}'
            )


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
