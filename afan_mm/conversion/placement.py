"""Which parts of a host get a site, and what an inheriting config says to give it them."""

import copy
import warnings
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.registry import MODELS

from ..models import AFANClsHead, AFANDecodeHead, AFANModel, AFANNeckWrapper, AFANRoIHead
from ..models.component import parameter
from ..settings import AFANSettings
from ..utils.configs import type_name
from ..utils.errors import describe
from .host import ConversionError, Host, level_read

HEADS = {'decode_head': AFANDecodeHead, 'roi_head': AFANRoIHead, 'head': AFANClsHead}
SITES_OF_PAPER = ('classifier', 'vector')
OPTIONS = dict(neck=('levels', 'reuse_proposals'), head=('levels',))
NECK_SITES = {'neck': 'input', 'input': 'input', 'output': 'output'}


class Sites(NamedTuple):
    """Sites that were asked for.

    Attributes:
        neck: Those of the neck wrapper.
        head: Those of the head, ``''`` for the one that suits it.
        asked: Whether by name.
        levels: Of sites of the neck wrapper, where they are known; (-1,): need not be stated.
        reasons: Why these, where there is more to say than that they were asked for.
    """

    neck: List[str]
    head: List[str]
    asked: bool = True
    levels: Dict[str, Tuple[int, ...]] = {}
    reasons: Dict[str, str] = {}


def read_sites(names: Optional[Sequence[str]], host: Host) -> Sites:
    """Sites by the names that a user gives them."""
    if names is None:
        return Sites(['input'], [''], asked=False)
    neck: List[str] = []
    heads: List[str] = []
    for name in names:
        first, _, rest = name.partition('.')
        if name in NECK_SITES:
            neck.append(NECK_SITES[name])
        elif name == 'head':
            heads.append('')
        elif rest and first in host.config:
            (heads if first in HEADS else neck).append(rest if first in HEADS else name)
        else:
            raise ConversionError(
                "sites must be 'neck', 'output', 'head', the path of a module of the host such as "
                "'backbone.layer3', or a site "
                f"of its head such as 'roi_head.map'; got {name!r} for a {host.cls.__name__} with "
                f'{", ".join(host.config)}'
            )
    if not neck + heads or any(len(set(part)) < len(part) for part in (neck, heads)):
        raise ConversionError(f'sites must be different ones, but got {", ".join(names)}')
    return Sites(neck, heads)


class Parts:
    """Collects what is stated of each part, and why.

    Attributes:
        stated: What an inheriting config says of the host.
        choices, left_out: As those of :class:`Conversion`.
    """

    def __init__(self, host: Host, sites: Sites):
        self.host, self.sites = host, sites
        self.stated: Dict[str, Any] = {}
        self.choices: List[Tuple[str, str]] = []
        self.left_out: List[Tuple[str, str]] = []

    def add_neck(self, settings: Dict[str, Any]) -> None:
        """The neck wrapper, if any of the sites is its."""
        if not self.sites.neck:
            return
        stock = self.host.config.get('neck')
        several = isinstance(stock, (list, tuple)) and len(stock) > 0
        first = stock[0] if several else stock
        where = ('neck', 0) if several else ('neck',)
        if parameter(self.host.cls, 'neck') is None:
            return self._add_model(settings)
        if not callable(getattr(self.host.cls, 'loss', None)):
            return self._leave_out(
                where,
                f'{self.host.cls.__name__} has no method loss, which is the tail of these sites',
            )
        base = first['type'] if first else None
        try:
            AFANNeckWrapper.stock_class(base)
        except (TypeError, KeyError) as error:
            return self._leave_out(where, str(error.args[0]))
        afan = [self._neck_settings(site, settings) for site in self.sites.neck]
        part = dict(type='AFANNeckWrapper', base=base, afan=afan if len(afan) > 1 else afan[0])
        self._state('neck', stock, 0, part)
        self.choices.append((self.host.name(*where), self._neck_reason(base, several, afan)))

    def _add_model(self, settings: Dict[str, Any]) -> None:
        """Sites on paths of a model that takes no neck."""
        kind = self.host.cls.__name__
        backbone = bool(self.host.config.get('backbone'))
        if 'output' in self.sites.neck or 'input' in self.sites.neck and not backbone:
            return self._leave_out(
                ('neck',),
                f'{kind} takes no neck, so there is no place for the wrapper; ask for the path of '
                f'a module, in one of {", ".join(self._modules())}',
            )
        if not AFANModel.accepts(self.host.cls):
            return self._leave_out(
                ('neck',),
                f'{kind} takes no neck, and has no method loss, which is the tail of its sites',
            )
        afan = []
        for site in self.sites.neck:
            each = self._neck_settings(site, settings)
            if site == 'input':
                each = {'site': 'backbone', 'levels': (-1,), **each}
            afan.append(each)
        base = self.host.config['type']
        self.stated.update(type='AFANModel', base=base, afan=afan if len(afan) > 1 else afan[0])
        sites = ' and '.join(repr(each['site']) for each in afan)
        self.choices.append((self.host.name(), f'{kind} takes no neck, and stays; site: {sites}'))

    def _modules(self) -> List[str]:
        return [
            key
            for key, part in self.host.config.items()
            if isinstance(part, dict) and 'type' in part and key != 'data_preprocessor'
        ]

    def _neck_settings(self, site: str, settings: Dict[str, Any]) -> Dict[str, Any]:
        checked(settings, 'neck')
        afan = dict(settings)
        if '.' in site:
            _check_path(self.host, site)
        stated = {} if site == 'input' else dict(site=site)
        by_itself = (level_read(self.host) if site == 'input' else -1,)
        levels = self.sites.levels.get(site, by_itself)
        return dict(stated if levels == (-1,) else dict(stated, levels=levels), **afan)

    def _neck_reason(self, base: Optional[str], several: bool, afan: List[dict]) -> str:
        text = (
            f'{_name(base)}, the first of the modules of the neck, stays'
            if several
            else f'{_name(base)} stays'
            if base
            else 'no neck'
        )
        reasons = []
        for each in afan:
            site, levels = each.get('site', 'input'), each.get('levels')
            if site != 'input':
                what, why = f"'{site}'", 'as asked for'
            elif levels:
                what = f'level {levels[-1]} of the backbone'
                why = f'the last that {"the neck" if base else "the head"} reads'
            else:
                what, why = "the backbone's last layer", 'a site of the paper'
            reasons.append(f'{what}, {self.sites.reasons.get(site, why)}')
        return f'{text}; site: {" and ".join(reasons)}'

    def add_head(self, settings: Dict[str, Any]) -> None:
        """The decode head or RoI head, if it is one that A-FAN has a component for."""
        if not self.sites.head:
            return
        for key, component in HEADS.items():
            stock = self.host.config.get(key)
            if stock and key == 'head' and not self.sites.asked:
                return self._leave_out(
                    (key,), 'the paper has no site there; ask for it by its name'
                )
            if stock:
                return self._add_head(key, component, stock, settings)
        heads = {
            key: _name(part['type'])
            for key, part in self.host.config.items()
            if key.endswith('head') and isinstance(part, dict)
        }
        for key, kind in (heads or {'head': self.host.cls.__name__}).items():
            self._leave_out(
                (key,), f'{kind} is neither a decode head nor a RoI head, nor a classifier'
            )

    def _add_head(self, key: str, component: type, stock: Any, settings: Dict[str, Any]) -> None:
        several = isinstance(stock, (list, tuple))
        last = len(stock) - 1 if several else 0
        head, where = (stock[last], (key, last)) if several else (stock, (key,))
        try:
            stock_class = component.stock_class(head['type'])
        except (TypeError, KeyError) as error:
            return self._leave_out(where, str(error.args[0]))
        default = _default_site(component, head, stock_class) if '' in self.sites.head else None
        if '' in self.sites.head and default is None:
            return self._leave_out(
                where,
                f'{_name(head["type"])} has none of the sites that {component.__name__} knows by '
                'itself; '
                f"a submodule of it can be asked for, as '{key}.NAME'",
            )
        afan, reasons = [], []
        stages = ' of every stage' if isinstance(head.get('bbox_head'), list) else ''
        for site in self.sites.head:
            if site:
                _check_head_site(component, head, site)
            checked(settings, 'head')
            afan.append(dict(dict(site=site) if site else {}, **settings))
            why = self.sites.reasons.get(f'head.{site}') or _head_reason(key, site, default)
            reasons.append(f"'{site or default}'{stages}, {why}")
        part = dict(type=component.__name__, base=head['type'])
        self._state(key, stock, last, dict(part, afan=afan if len(afan) > 1 else afan[0]))
        stage = 'the last of the heads; ' if several else ''
        self.choices.append(
            (
                self.host.name(*where),
                f'{stage}{_name(head["type"])} stays; site: {" and ".join(reasons)}',
            )
        )

    def _state(self, key: str, stock: Any, index: int, part: Dict[str, Any]) -> None:
        """A list is stated whole, as an inheriting one replaces it; a dict by what differs."""
        if isinstance(stock, (list, tuple)) and stock:
            self.stated[key] = [
                dict(each, **part) if i == index else each for i, each in enumerate(stock)
            ]
        elif key in self.host.config and not isinstance(stock, dict):
            self.stated[key] = dict(_delete_=True, **part)
        else:
            self.stated[key] = part

    def _leave_out(self, where: Tuple[Any, ...], reason: str) -> None:
        name = self.host.name(*where)
        if self.sites.asked:
            raise ConversionError(f'no site in {name}: {reason}')
        self.left_out.append((name, reason))


def _name(kind: Any) -> str:
    """Of a ``type``, which is a class in the pure Python style."""
    return kind if isinstance(kind, str) else kind.__name__


def _head_reason(key: str, site: str, default: Optional[str]) -> str:
    if site:
        return 'as asked for'
    if key == 'head':
        return 'the vector that its last layer reads'
    return 'a site of the paper' if default in SITES_OF_PAPER else 'as its box head is made'


def checked(settings: Dict[str, Any], part: str) -> AFANSettings:
    """Those of a component that are no options of its own; ConversionError where one is wrong."""
    try:
        return AFANSettings.from_config(
            {key: value for key, value in settings.items() if key not in OPTIONS[part]}
        )
    except (TypeError, ValueError) as error:
        raise ConversionError(str(error)) from error


def _default_site(component: type, head: dict, stock: type) -> Optional[str]:
    """The site of a head that is not asked for another one, by its component, which may build it;
    None if it has none.
    """
    try:
        return _built(lambda: component.default_site(dict(copy.deepcopy(head), type=stock)))
    except Exception as error:
        raise ConversionError(
            f'{_name(head["type"])} cannot be built: {describe(error)}'
        ) from error


def _check_head_site(component: type, head: dict, site: str) -> None:
    """ConversionError where the component of a head refuses a site that was asked for."""
    arguments = {key: value for key, value in head.items() if key != 'type'}
    try:
        _built(
            lambda: component(base=head['type'], afan=dict(site=site), **copy.deepcopy(arguments))
        )
    except Exception as error:  # a head may need more than its config to be built
        if isinstance(error, ValueError) and 'site must be' in str(error):
            raise ConversionError(str(error)) from error


def _check_path(host: Host, path: str) -> None:
    """ConversionError where a host has no module of that path, as far as its part can be built."""
    first, _, rest = path.partition('.')
    part = host.config[first]
    if isinstance(part, (list, tuple)):
        index, _, rest = rest.partition('.')
        part = part[int(index)] if index.isdigit() and int(index) < len(part) else None
    if not isinstance(part, dict):
        raise ConversionError(
            f'sites must be modules of the host, but {host.name(first)} is {part}'
        )
    try:
        module = _built(lambda: MODELS.build(copy.deepcopy(part)))
    except Exception:  # what cannot be built alone is left to the run
        return
    names = [name for name, _ in module.named_modules() if name]
    if rest and rest not in names:
        parent = rest.rpartition('.')[0]
        siblings = [name for name in names if name.rpartition('.')[0] == parent]
        raise ConversionError(
            f'sites must be modules of the host, but got {path!r}; {host.name(first)}, a '
            f'{type_name(part)}, has {", ".join(siblings or names)[:200]}'
        )


def _built(build: Callable[[], Any]) -> Any:
    """What ``build`` returns, without weights where that can be: they take time and random
    numbers.
    """
    for device in ('meta', 'cpu'):
        try:
            with torch.device(device), torch.random.fork_rng(), warnings.catch_warnings():
                warnings.simplefilter('ignore')  # the run will give them again
                return build()
        except Exception:  # building may fail in any way
            if device == 'cpu':
                raise
    return None
