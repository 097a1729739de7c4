"""Late sites: where little of a training step is left, by measurement.

A point is offered if a component can perturb it: what the head reads; what the last layer of a
decode head, a RoI head or a classifier reads, and the RoI map before it; and in a classifier, whose
head reads nothing but a vector, the last two stages of its backbone.
"""

from typing import Dict, List, NamedTuple, Optional, Tuple

from mmengine.config import Config
from torch import nn

from ..models import AFANClsHead
from ..models.component import parameter
from ..models.point import Point
from ..utils.configs import LIBRARIES
from ..utils.errors import describe
from .channels import channel_axis
from .host import ConversionError, Host, level_read
from .sites import HEADS, NECK_SITES
from .stages import inner_modules, stages
from .tail_share import Meter, identity
from .trial_step import Shape, shapes_of, trial_step

MAX_TAIL_SHARE = 0.45
NUM_STAGES = 2
INSTEAD = "Write sites, such as neck,head, or preset 'paper', which needs no step"


class LateSite(NamedTuple):
    """A point that can be a site.

    Attributes:
        name: As a user names it, such as 'backbone.layer4', 'output' or 'head'.
        levels: Of its feature, where there are several.
        share: The tail share, what comes after it of a step's operations.
        channel_axis: Of its feature, as :class:`~afan_mm.AFANSettings` has it.
    """

    name: str
    levels: Optional[Tuple[int, ...]]
    share: float
    channel_axis: int


def late_sites(cfg: Config, host: Host, most: float) -> Tuple[List[LateSite], str]:
    """The sites whose tail is at most a share of the step, or if there is none the last one; with
    one before the RoI head if that is a cascade. In the order of the forward pass, and a sentence
    on how they were found.

    Args:
        cfg: The stock config.
        host: Its model.
        most: The largest share.

    Raises:
        ConversionError: If the model has none, or cannot be built and run here.
    """
    scope = host.config.get('_scope_') or cfg.get('default_scope')
    if scope not in LIBRARIES:  # none in the pure Python style, or one of the user's own
        scope = host.library
    if scope is None:
        raise ConversionError(
            f'late sites are for the models of {", ".join(LIBRARIES)}, but got '
            f'{host.cls.__name__}. {INSTEAD}'
        )
    error = None
    for shape in shapes_of(cfg):
        try:
            found = measured(cfg, host, scope, shape)
            break
        except Exception as each:  # a model may fail in any way
            error = error or each
    else:
        raise ConversionError(
            'late sites are found by a stock step on random images, which fails here: '
            f'{describe(error)}. {INSTEAD}'
        ) from error
    if not found:
        raise ConversionError(
            f'late sites: the losses depend on none of the points known. {INSTEAD}'
        )
    late = [site for site in found if site.share <= most] or found[-1:]
    outside = [site for site in found if not _in_roi_head(site, host)]
    if _has_stages(host) and late[0] not in outside:
        late = outside[-1:] + late  # or one pass would not reach them all
    return late, _report(found, late, most, shape)


def shown(share: float) -> str:
    """A tail share as messages write it."""
    return f'{share:.2f}' if share >= 0.005 else 'under 0.005'


def _report(found: List[LateSite], late: List[LateSite], most: float, shape: Shape) -> str:
    text = f'Late sites have a tail share of at most {most:g}'
    if late[0].share > most and len(late) == 1:
        text += ', which none has, so this is the last one'
    elif late[0].share > most:
        text += f', but for {late[0].name}, from where one pass reaches all stages of the RoI head'
    earlier = found[: found.index(late[0])]
    if earlier:
        text += f'; that of {earlier[-1].name}, before them, is {shown(earlier[-1].share)}'
    return f'{text}. Measured on two images of {shape[0]} x {shape[1]}.'


def _has_stages(host: Host) -> bool:
    return isinstance((host.config.get('roi_head') or {}).get('bbox_head'), list)


def _in_roi_head(site: LateSite, host: Host) -> bool:
    return bool(host.config.get('roi_head')) and site.name.split('.')[0] in ('head', 'roi_head')


def measured(cfg: Config, host: Host, scope: str, shape: Shape) -> List[LateSite]:
    """All points that are offered, in the order of the forward pass.

    Args:
        cfg, host, scope, shape: Of the step, see :func:`trial_step`.
    """
    with trial_step(cfg, host, scope, shape) as (model, compute):
        known, inner = _known_points(host, model), _inner_points(host, model)
        meter = Meter(model, {**inner, **known}, compute)
    last = stages(model.backbone, meter, 'backbone')[-NUM_STAGES:] if inner else []
    read = _read(meter, [name for name in meter.features if name in (*known, *last)], host)
    return [
        LateSite(
            name,
            _stated(meter, name, read[name]),
            meter.share(name, read[name]),
            channel_axis(meter.features[name].levels[read[name][-1]], meter.features[name].point),
        )
        for name in _distinct(meter, read)
    ]


def _known_points(host: Host, model: nn.Module) -> Dict[str, Point]:
    """What the head reads, and the sites that the head's component knows, by the name that a user
    gives them.
    """
    points = {}
    neck = getattr(model, 'neck', None)
    if neck is not None and parameter(host.cls, 'neck') is not None:
        points['output'] = Point(neck[0] if isinstance(neck, nn.Sequential) else neck)
    elif getattr(model, 'backbone', None) is not None:
        points['neck'] = Point(model.backbone)
    key, head = _head(host, model)
    if head is not None and HEADS[key].accepts(type(head)):
        inside = HEADS[key].known_points(head)
        last = list(inside)[-1:]  # which the head has by itself
        for site, point in inside.items():
            points['head' if site in last else f'{key}.{site}'] = point
    return points


def _inner_points(host: Host, model: nn.Module) -> Dict[str, Point]:
    """What may be a stage of the backbone of a classifier, by path."""
    key, _ = _head(host, model)
    if key is None or HEADS[key] is not AFANClsHead or not hasattr(model, 'backbone'):
        return {}
    return {path: Point(part) for path, part in inner_modules(model.backbone, 'backbone')}


def _head(host: Host, model: nn.Module) -> Tuple[Optional[str], Optional[nn.Module]]:
    key = next((key for key in HEADS if host.config.get(key)), None)
    head = getattr(model, key, None) if key else None
    return key, head[-1] if isinstance(head, nn.ModuleList) else head


def _read(meter: Meter, names: List[str], host: Host) -> Dict[str, Tuple[int, ...]]:
    """The points on which the losses depend, and the last of these, with the levels that are read;
    of the backbone's levels the last one.
    """
    read: Dict[str, Tuple[int, ...]] = {}
    for name in names:
        levels = meter.levels_read(name)
        if name == 'neck':
            level = level_read(host) % len(meter.features[name].levels)
            levels = (level,) if level in levels else ()
        if levels and meter.features[name].is_intact:
            read[name] = levels
    if read:
        last = list(read)[-1]
        end = [meter.features[last].levels[level] for level in read[last]]
        read = {n: each for n, each in read.items() if n == last or meter.levels_read(n, by=end)}
    return read


def _distinct(meter: Meter, read: Dict[str, Tuple[int, ...]]) -> List[str]:
    """Of points with the same tensors one: rather the neck wrapper's than a path or the head's."""
    kept: List[str] = []
    for name, levels in read.items():
        came = [meter.features[name].came[level] for level in levels]
        if kept and came == [identity(meter.features[kept[-1]].levels[i]) for i in read[kept[-1]]]:
            if kept[-1] in NECK_SITES:
                continue
            kept.pop()
        kept.append(name)
    return kept


def _stated(meter: Meter, name: str, levels: Tuple[int, ...]) -> Optional[Tuple[int, ...]]:
    """The levels of a site as a config states them: none for an only tensor, and (-1,) for the last
    of several where the wrapper takes that one by itself.
    """
    count = len(meter.features[name].levels)
    if name in NECK_SITES and levels == (count - 1,):
        return (-1,)
    return None if count == 1 else levels
