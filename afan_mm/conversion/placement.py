"""What an inheriting config says of a host to give its parts their sites."""

from typing import Any, Dict, List, Optional, Tuple

from ..models import AFANModel, AFANNeckWrapper
from ..models.component import parameter
from ..utils.configs import type_name
from .host import ConversionError, Host, level_read
from .part_checks import check_head_site, check_path, checked, default_site
from .sites import HEADS, Sites

SITES_OF_PAPER = ('classifier', 'vector')


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
        if parameter(self.host.cls, 'neck') is None:
            return self._add_model(settings)
        stock = self.host.config.get('neck')
        several = isinstance(stock, (list, tuple)) and len(stock) > 0
        first, where = (stock[0], ('neck', 0)) if several else (stock, ('neck',))
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
        self._state('neck', stock, 0, _component('AFANNeckWrapper', base, afan))
        self.choices.append((self.host.name(*where), self._neck_reason(first, several, afan)))

    def _add_model(self, settings: Dict[str, Any]) -> None:
        """Sites on paths of a model that takes no neck."""
        kind = self.host.cls.__name__
        backbone = bool(self.host.config.get('backbone'))
        if 'output' in self.sites.neck or 'input' in self.sites.neck and not backbone:
            return self._leave_out(
                ('neck',),
                f'{kind} takes no neck, so there is no place for the wrapper; ask for the path of '
                f'a module, in one of {", ".join(self.host.modules)}',
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
        self.stated.update(_component('AFANModel', self.host.config['type'], afan))
        sites = ' and '.join(repr(each['site']) for each in afan)
        self.choices.append((self.host.name(), f'{kind} takes no neck, and stays; site: {sites}'))

    def _neck_settings(self, site: str, settings: Dict[str, Any]) -> Dict[str, Any]:
        checked(settings, 'neck')
        if '.' in site:
            check_path(self.host, site)
        stated: Dict[str, Any] = {} if site == 'input' else dict(site=site)
        by_itself = (level_read(self.host) if site == 'input' else -1,)
        levels = self.sites.levels.get(site, by_itself)
        if levels != (-1,):
            stated['levels'] = levels
        return {**stated, **self.sites.settings.get(site, {}), **settings}

    def _neck_reason(self, stock: Optional[dict], several: bool, afan: List[dict]) -> str:
        text = (
            f'{type_name(stock)}, the first of the modules of the neck, stays'
            if several
            else f'{type_name(stock)} stays'
            if stock
            else 'no neck'
        )
        reasons = []
        for each in afan:
            site, levels = each.get('site', 'input'), each.get('levels')
            if site != 'input':
                what, why = f"'{site}'", 'as asked for'
            elif levels:
                what = f'level {levels[-1]} of the backbone'
                why = f'the last that {"the neck" if stock else "the head"} reads'
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
            key: type_name(part)
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
        default = default_site(component, head, stock_class) if '' in self.sites.head else None
        if '' in self.sites.head and default is None:
            return self._leave_out(
                where,
                f'{type_name(head)} has none of the sites that {component.__name__} knows by '
                'itself; '
                f"a submodule of it can be asked for, as '{key}.NAME'",
            )
        checked(settings, 'head')
        afan, reasons = [], []
        stages = ' of every stage' if isinstance(head.get('bbox_head'), list) else ''
        for site in self.sites.head:
            if site:
                check_head_site(component, head, site)
            own = self.sites.settings.get(f'head.{site}', {})
            afan.append({**(dict(site=site) if site else {}), **own, **settings})
            why = self.sites.reasons.get(f'head.{site}') or _head_reason(key, site, default)
            reasons.append(f"'{site or default}'{stages}, {why}")
        self._state(key, stock, last, _component(component.__name__, head['type'], afan))
        which = 'the last of the heads; ' if several else ''
        why = f'{which}{type_name(head)} stays; site: {" and ".join(reasons)}'
        self.choices.append((self.host.name(*where), why))

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


def _component(kind: str, base: Any, afan: List[Dict[str, Any]]) -> Dict[str, Any]:
    """What is stated of a part: settings of an only site stand by themselves."""
    return dict(type=kind, base=base, afan=afan if len(afan) > 1 else afan[0])


def _head_reason(key: str, site: str, default: Optional[str]) -> str:
    if site:
        return 'as asked for'
    if key == 'head':
        return 'the vector that its last layer reads'
    return 'a site of the paper' if default in SITES_OF_PAPER else 'as its box head is made'
