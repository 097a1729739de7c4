"""The conversion itself."""

import copy
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from mmengine.config import Config

from ..joint import complement
from ..settings import AFANSettings
from ..utils.checks import check_choice, check_number
from .cost import estimated_cost
from .host import ConversionError, Host, find_host, in_scope, refuse_converted
from .late import MAX_TAIL_SHARE, late_sites, shown
from .part_checks import checked
from .placement import Parts
from .presets import PRESETS, SITES, preset_settings
from .pure_python import with_classes
from .sites import Sites, read_sites
from .training import training_overrides

APART = ('neck', 'head', 'optim_wrapper')  # of which settings of their own can be given


class Conversion(NamedTuple):
    """What turns a stock config into an A-FAN config.

    Attributes:
        overrides: What an inheriting config states: ``custom_imports``, ``custom_hooks``,
            ``optim_wrapper``, parts of ``model``.
        choices: For each part that gets a site, such as 'model.neck', why this one.
        left_out: For each part that gets none, why not.
        notes: Where the settings come from.
    """

    overrides: Dict[str, Any]
    choices: List[Tuple[str, str]]
    left_out: List[Tuple[str, str]]
    notes: List[str]


def convert(
    cfg: Config,
    sites: Union[str, Sequence[str], None] = None,
    preset: Optional[str] = 'recommended',
    max_tail_share: Optional[float] = None,
    **afan: Any,
) -> Conversion:
    """Choose the components that fit a stock config of mmdet, mmseg or mmpretrain.

    Whether a part fits is asked of the component by the part's class, so a head of the user's own
    fits by what it derives from.

    Args:
        cfg: The stock config.
        sites: 'neck' (what the neck reads), 'output' (what it returns), the path of a module of the
            host such as 'backbone.layer3', 'head', or a site in the head such as 'roi_head.map'.
            Or 'late', alone: those of what the head reads, what its last layer reads, the RoI map
            and the last two stages of a classifier that have a small tail, by a measured stock step
            on small random images; for ``joint=True``, as the preset 'recommended' has it. Defaults
            to None: 'late' with the preset 'recommended', with others 'neck' and 'head', as far as
            they fit.
        preset: 'recommended' for late sites perturbed together, settings of the 'paper' or of its
            'released' code for the data set of the config (configs/_base_/presets), or None for
            those of :class:`~afan_mm.AFANSettings`. Defaults to 'recommended'.
        max_tail_share: How much of a step's operations may come after a site of 'late'; where no
            site has so little, the last one is taken. Defaults to 0.45.
        afan: Settings of every site, which win over the preset's; see
            :class:`~afan_mm.AFANSettings`. The keys ``neck`` and ``head`` hold those of one
            component alone, and ``optim_wrapper`` further keys of the optim wrapper, such as
            ``clean_weight``.

    Raises:
        ConversionError: If nothing fits, or not the sites that were asked for; if the config trains
            nothing, has A-FAN components already, or an optim wrapper that A-FAN has no twin of.
    """
    try:
        check_choice('preset', preset, (*PRESETS, None))
    except ValueError as error:
        raise ConversionError(str(error)) from error
    names = sites.split(',') if isinstance(sites, str) else sites
    if names is None:
        names = SITES.get(preset)
    most = _checked_share(names, max_tail_share)
    model = cfg.get('model')
    with in_scope(
        (model.get('_scope_') if isinstance(model, dict) else None) or cfg.get('default_scope')
    ):
        host = find_host(model)
        refuse_converted(model, 'model')
        settings, optim_wrapper, notes = _settings(cfg, host, preset, afan)
        overrides = training_overrides(cfg, optim_wrapper)
        if most is None:
            chosen = read_sites(names, host)
        else:
            chosen, how = _late(cfg, host, most, settings)
            notes += how
        _check_weights(optim_wrapper, chosen, settings)
        parts = Parts(host, chosen)
        parts.add_neck(settings['neck'])
        parts.add_head(settings['head'])
    if not parts.choices:
        raise ConversionError(
            'nothing in the config fits: '
            + '; '.join(f'{name}: {reason}' for name, reason in parts.left_out)
        )
    stated: Dict[str, Any] = parts.stated
    for key in reversed(host.path):
        stated = {key: stated}
    overrides.update(stated)
    if isinstance(model['type'], type):
        overrides = with_classes(overrides)
    return Conversion(overrides, parts.choices, parts.left_out, notes)


def converted(
    cfg: Config,
    sites: Union[str, Sequence[str], None] = None,
    preset: Optional[str] = 'recommended',
    **afan: Any,
) -> Config:
    """The config that inherits from ``cfg`` and states what :func:`convert` gives for the same
    arguments, ``max_tail_share`` among them; tools/convert_config.py writes the same one. Its
    ``work_dir`` and ``resume`` are those of ``cfg``, for which a file has its own.
    """
    return inherit(cfg, convert(cfg, sites, preset, **afan).overrides)


def _settings(
    cfg: Config, host: Host, preset: Optional[str], given: Dict[str, Any]
) -> Tuple[Dict[str, Dict[str, Any]], Dict[str, Any], List[str]]:
    """Settings of neck and head, keys of the optim wrapper, and sentences on where they come from.

    Args:
        given: The arguments ``afan`` of :func:`convert`.
    """
    shared = {key: value for key, value in given.items() if key not in APART}
    ready, notes = preset_settings(cfg, preset, shared, host.library) if preset else ({}, [])
    neck, head, optim_wrapper = ({**ready.get(key, {}), **(given.get(key) or {})} for key in APART)
    return dict(neck={**shared, **neck}, head={**shared, **head}), optim_wrapper, notes


def _checked_share(sites: Optional[Sequence[str]], most: Optional[float]) -> Optional[float]:
    """The largest tail share of late sites; None where others are asked for."""
    if sites is not None and 'late' in sites:
        if len(sites) > 1:
            raise ConversionError(
                f"sites must be 'late' alone or other ones, but got {', '.join(sites)}"
            )
        most = MAX_TAIL_SHARE if most is None else most
        try:
            return check_number('max_tail_share', most, most=1, above=True)
        except (TypeError, ValueError) as error:
            raise ConversionError(str(error)) from error
    if most is not None:
        raise ConversionError(f"max_tail_share is for sites='late', but got {most!r} without it")
    return None


def _check_weights(
    optim_wrapper: Dict[str, Any], chosen: Sites, settings: Dict[str, Dict[str, Any]]
) -> None:
    """ConversionError where a clean weight that complements the adversarial ones would be none."""
    if optim_wrapper.get('clean_weight') == 'complement':
        sites = [checked(settings['neck'], 'neck') for _ in chosen.neck]
        sites += [checked(settings['head'], 'head') for _ in chosen.head]
        try:
            complement(sites)
        except ValueError as error:
            raise ConversionError(
                f"{error} or num_strengths, or take the preset 'paper'"
            ) from error


def _late(
    cfg: Config, host: Host, most: float, settings: Dict[str, Dict[str, Any]]
) -> Tuple[Sites, List[str]]:
    """Late sites, and sentences on them; the settings are those of neck and head."""
    own = {part: checked(each, part) for part, each in settings.items()}
    late, how = late_sites(cfg, host, most)
    levels: Dict[str, Tuple[int, ...]] = {}
    asked: Dict[str, Dict[str, Any]] = {}
    reasons: Dict[str, str] = {}
    costs: List[Tuple[AFANSettings, float]] = []
    for site in late:
        one = read_sites([site.name], host)
        part, key = ('neck', one.neck[0]) if one.neck else ('head', f'head.{one.head[0]}')
        costs.append((own[part], site.share))
        reasons[key] = f'tail share {shown(site.share)}'
        if site.levels is not None:
            levels[key] = site.levels
        if site.channel_axis != 1:
            asked[key] = dict(channel_axis=site.channel_axis)
    chosen = read_sites([site.name for site in late], host)
    cost = (
        f'A step has about {estimated_cost(costs):.2f} times the operations of a stock step whose '
        'every layer trains.'
    )
    return chosen._replace(levels=levels, settings=asked, reasons=reasons), [how, cost]


def inherit(cfg: Config, overrides: Dict[str, Any]) -> Config:
    """A copy of ``cfg`` with overrides, as mmengine makes it of a config and its ``_base_``."""
    merged = copy.deepcopy(cfg)
    merged.merge_from_dict(copy.deepcopy(overrides), allow_list_keys=False)
    return merged
