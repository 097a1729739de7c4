"""What a benchmark compares: from one A-FAN config its stock twin, its cheaper and other variants,
and other schedules.
"""

import copy
import functools
import inspect
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

from mmengine.config import Config

from ...conversion.presets import preset_entry, read_preset
from ...engine.optim_wrapper import AFANOptimMixin
from ...joint import SHARED
from ...settings import AFANSettings
from ...utils.configs import type_name
from .schedules import ONE_GRAPH, RELEASED
from .steps import pixel_step, released_step, train_step

COMPONENTS = ('AFANNeckWrapper', 'AFANDecodeHead', 'AFANRoIHead', 'AFANClsHead', 'AFANModel')
AFAN_KEYS = tuple(
    name
    for name, parameter in inspect.signature(AFANOptimMixin.__init__).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
)
AMP_KEYS = ('loss_scale', 'dtype', 'use_fsdp')
AMP_DTYPES = dict(fp16='float16', bf16='bfloat16')
INTERVAL = 4


class Variant(NamedTuple):
    """One way to train.

    Attributes:
        title: What it does, for the table.
        model: Config of its model.
        wrappers: Types of its optim wrapper, in full and in mixed precision.
        settings: What it changes at every site.
        tails: The variant whose tails are those of its adversarial passes; None where no floor
            applies.
        num_steps: Training steps after which its work repeats.
        step: Trains on one batch, given the model, the batch and the optim wrapper.
    """

    title: str
    model: dict
    wrappers: Tuple[Union[str, type], Union[str, type]] = (
        'AFANOptimWrapper',
        'AFANAmpOptimWrapper',
    )
    settings: Dict[str, Any] = {}
    tails: Optional[str] = None
    num_steps: int = 1
    step: Callable[..., Any] = train_step


def variants_of(cfg: Config) -> Dict[str, Variant]:
    """Every variant of an A-FAN config that differs from the others, by name; 'stock' is the first.

    Raises:
        ValueError: If the config has no A-FAN site.
    """
    configured = _configured(cfg.model)
    if not any(afan.get('num_strengths', 1) for afan in configured):
        raise ValueError(
            f'it has no A-FAN site; its model needs a component of type {" or ".join(COMPONENTS)}, '
            'and num_strengths > 0'
        )
    make = _Maker(cfg.model, max(afan.get('interval', 1) for afan in configured))
    stock = Variant(
        'the stock training step', stock_twin(cfg.model), ('OptimWrapper', 'AmpOptimWrapper')
    )
    variants = dict(
        stock=stock,
        nothing=make.variant('A-FAN components with num_strengths=0', num_strengths=0),
        afan=make.variant('A-FAN as configured'),
    )
    if not all(afan.get('detach', False) for afan in configured):
        variants['detached'] = make.variant(
            'adversarial losses train the tail only', tails='detached', detach=True
        )
    num_steps = max(afan.get('num_steps', 1) for afan in configured)
    pixel = stock._replace(
        title='adversarial training on the image',
        step=functools.partial(pixel_step, num_steps=num_steps),
    )
    advprop = Variant(
        'AdvProp: the same with batch norms of its own', _advprop(cfg, stock.model, num_steps)
    )
    return dict(variants, **_cheaper(make), **_other_schedules(make), pixel=pixel, advprop=advprop)


def _advprop(cfg: Config, stock: dict, num_steps: int) -> dict:
    """The stock model with AdvProp's site, and as many steps as A-FAN has."""
    image = read_preset('advprop')[preset_entry(cfg)[0]].image
    model = copy.deepcopy(stock)
    model.update(type='AFANModel', base=stock['type'], afan=dict(image, num_steps=num_steps))
    return model


class _Maker:
    """Makes variants of one model.

    Args:
        model: Config of an A-FAN model.
        period: Iterations after which its work repeats.
    """

    def __init__(self, model: dict, period: int):
        self.model, self.period = model, period

    def variant(
        self, title: str, model: Optional[dict] = None, tails: str = 'afan', **settings: Any
    ) -> Variant:
        return Variant(
            title,
            with_settings(self.model if model is None else model, **settings),
            settings=settings,
            tails=tails,
            num_steps=settings.get('interval', self.period),
        )

    def schedule(self, wrappers: Tuple[type, type], title: str, **settings: Any) -> Variant:
        settings = dict(estimator='sum', interval=1, joint=False, **settings)
        return Variant(title, with_settings(self.model, **settings), wrappers, settings)


def _cheaper(make: _Maker) -> Dict[str, Variant]:
    """Ways to run A-FAN in less time."""
    one_pass = dict(estimator='single', interval=1)
    kinds = {type_name(parent[key]) for parent, key in _components(dict(model=make.model))}
    variants = dict(
        one_pass=make.variant('one random strength in a step', **one_pass),
        per_sample=make.variant(
            'one pass, a strength for each sample',
            estimator='per_sample',
            interval=1,
            normalized=None,
        ),
    )
    if 'AFANNeckWrapper' in kinds and 'roi_head' in make.model:
        reusing = with_settings(make.model, ('AFANNeckWrapper',), reuse_proposals=True)
        variants['reuse'] = make.variant(
            'adversarial passes reuse the clean proposals', reusing, 'reuse'
        )
        variants['reuse_one_pass'] = make.variant(
            'the same, one random strength in a step', reusing, 'reuse', **one_pass
        )
    if 'AFANNeckWrapper' in kinds and len(kinds) > 1:
        variants['head_only'] = make.variant(
            'the site in the head alone', stock_twin(make.model, ('AFANNeckWrapper',)), 'head_only'
        )
    variants.update(_joint(make))
    variants['interval'] = make.variant(
        f'adversarial passes in every {INTERVAL}th step', estimator='sum', interval=INTERVAL
    )
    return variants


def _joint(make: _Maker) -> Dict[str, Variant]:
    """All sites perturbed in the same passes, as many as the site has that the config names first;
    nothing for a config with one site.
    """
    configured = _configured(make.model)
    if len(configured) < 2:
        return {}
    # what the sites of a group share
    shared = {key: configured[0][key] for key in SHARED if key in configured[0]}
    shared.update({key: getattr(AFANSettings, key) for key in SHARED if key not in shared})
    settings = dict(shared, joint=True, normalized=None, interval=1)
    one_pass = dict(settings, estimator='per_sample')
    return dict(
        joint=make.variant('all sites perturbed in the same passes', **settings),
        joint_one_pass=make.variant('the same, one pass, a strength for each sample', **one_pass),
    )


def _other_schedules(make: _Maker) -> Dict[str, Variant]:
    """Other ways to compute the same."""
    one_graph = make.schedule(ONE_GRAPH, 'the same objective as one graph, one backward')
    released = make.schedule(RELEASED, "the released code's schedule, detached", detach=True)
    return dict(
        one_graph=one_graph._replace(tails='afan'), released=released._replace(step=released_step)
    )


def stock_twin(model: dict, kinds: Tuple[str, ...] = COMPONENTS) -> dict:
    """The model with its A-FAN components of these types turned into the stock ones."""
    whole = dict(model=copy.deepcopy(model))
    for parent, key in list(_components(whole, kinds)):
        component = parent[key]
        component.pop('afan', None)
        base = component.pop('base', None)
        if base is None:  # a host without a neck
            del parent[key]
        else:
            component['type'] = base
    return whole['model']


def with_settings(model: dict, kinds: Tuple[str, ...] = COMPONENTS, **settings) -> dict:
    """The model with other settings at every site of its A-FAN components of these types."""
    whole = dict(model=copy.deepcopy(model))
    for parent, key in list(_components(whole, kinds)):
        changed = [dict(afan, **settings) for afan in _settings_of(parent[key])]
        if changed:
            parent[key]['afan'] = changed if len(changed) > 1 else changed[0]
    return whole['model']


def wrapper_config(cfg: Config, variant: Variant, amp: str) -> dict:
    """The config's optim wrapper as a variant needs it, updating in every step.

    Args:
        amp: 'none', 'fp16' or 'bf16'.
    """
    config = copy.deepcopy(cfg.optim_wrapper)
    full, mixed = variant.wrappers
    dropped = ('accumulative_counts', *AMP_KEYS) + (
        () if 'AFANOptimWrapper' in variant.wrappers else AFAN_KEYS
    )
    for key in dropped:
        config.pop(key, None)
    config['type'] = full if amp == 'none' else mixed
    if amp != 'none':
        # A scale that overflows at first would skip updates, and with them their work.
        config.update(dtype=AMP_DTYPES[amp], loss_scale=1.0)
    return config


def _components(node: Any, kinds: Tuple[str, ...] = COMPONENTS) -> Iterator[Tuple[Any, Any]]:
    """Where the A-FAN components are: (parent, key) pairs."""
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, (list, tuple))
        else ()
    )
    for key, value in items:
        if isinstance(value, dict) and type_name(value) in kinds:
            yield node, key
        yield from _components(value, kinds)


def _configured(model: dict) -> List[dict]:
    return [
        afan for parent, key in _components(dict(model=model)) for afan in _settings_of(parent[key])
    ]


def _settings_of(component: dict) -> list:
    if type_name(component) == 'AFANModel' and component.get('afan') is None:
        return []  # it has a site only where that is asked for
    afan = component.get('afan') or {}
    return list(afan) if isinstance(afan, (list, tuple)) else [afan]
