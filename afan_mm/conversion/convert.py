"""The conversion itself."""

import copy
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from mmengine.config import Config

from .host import ConversionError, find_host, in_scope, refuse_converted
from .parts import Parts, read_sites
from .training import training_overrides


class Conversion(NamedTuple):
    """What turns a stock config into an A-FAN config.

    Attributes:
        overrides: What an inheriting config states: ``custom_imports``, ``custom_hooks``,
            ``optim_wrapper``, parts of ``model``.
        choices: For each part that gets a site, such as 'model.neck', why this one.
        left_out: For each part that gets none, why not.
    """

    overrides: Dict[str, Any]
    choices: List[Tuple[str, str]]
    left_out: List[Tuple[str, str]]


def convert(cfg: Config, sites: Optional[Sequence[str]] = None, **afan: Any) -> Conversion:
    """Choose the components that fit a stock config of mmdet, mmseg or mmpretrain.

    Whether a part fits is asked of the component by the part's class, so a head of the user's own
    fits by what it derives from.

    Args:
        cfg: The stock config.
        sites: 'neck' (what the neck reads), 'output' (what it returns), the path of a module of the
            host such as 'backbone.layer3', 'head', or a site in the head such as 'roi_head.map'.
            Defaults to None: 'neck' and 'head', as far as they fit.
        afan: Settings of every site, see :class:`~afan_mm.AFANSettings`. The keys ``neck`` and
            ``head`` hold those of one component alone, and ``optim_wrapper`` further keys of the
            optim wrapper, such as ``clean_weight``.

    Raises:
        ConversionError: If nothing fits, or not the sites that were asked for; if the config trains
            nothing, has A-FAN components already, or an optim wrapper that A-FAN has no twin of.
    """
    own = {key: dict(afan.pop(key, None) or {}) for key in ('neck', 'head', 'optim_wrapper')}
    model = cfg.get('model')
    with in_scope(
        (model.get('_scope_') if isinstance(model, dict) else None) or cfg.get('default_scope')
    ):
        host = find_host(model)
        refuse_converted(model, 'model')
        overrides = training_overrides(cfg, own['optim_wrapper'])
        parts = Parts(host, read_sites(sites, host))
        parts.add_neck({**afan, **own['neck']})
        parts.add_head({**afan, **own['head']})
    if not parts.choices:
        raise ConversionError(
            'nothing in the config fits: '
            + '; '.join(f'{name}: {reason}' for name, reason in parts.left_out)
        )
    stated: Dict[str, Any] = parts.stated
    for key in reversed(host.path):
        stated = {key: stated}
    return Conversion({**overrides, **stated}, parts.choices, parts.left_out)


def converted(cfg: Config, sites: Optional[Sequence[str]] = None, **afan: Any) -> Config:
    """The config that inherits from ``cfg`` and states what :func:`convert` gives for the same
    arguments.
    """
    return inherit(cfg, convert(cfg, sites, **afan).overrides)


def inherit(cfg: Config, overrides: Dict[str, Any]) -> Config:
    """A copy of ``cfg`` with overrides, as mmengine makes it of a config and its ``_base_``."""
    merged = copy.deepcopy(cfg)
    merged.merge_from_dict(copy.deepcopy(overrides), allow_list_keys=False)
    return merged
