"""Settings and sites of a part of a host are checked before a config states them."""

import copy
import warnings
from typing import Any, Callable, Dict, Optional

import torch
from mmengine.registry import MODELS

from ..settings import AFANSettings
from ..stock_model import without_weights
from ..utils.configs import type_name
from ..utils.errors import describe
from .host import ConversionError, Host

OPTIONS = dict(neck=('levels', 'reuse_proposals'), head=('levels',))


def checked(settings: Dict[str, Any], part: str) -> AFANSettings:
    """Those of a component that are no options of its own; ConversionError where one is wrong."""
    try:
        return AFANSettings.from_config(
            {key: value for key, value in settings.items() if key not in OPTIONS[part]}
        )
    except (TypeError, ValueError) as error:
        raise ConversionError(str(error)) from error


def default_site(component: type, head: dict, stock: type) -> Optional[str]:
    """The site of a head that is not asked for another one, by its component, which may build it;
    None if it has none.
    """
    try:
        return _built(component.default_site, dict(head, type=stock))
    except Exception as error:
        raise ConversionError(f'{type_name(head)} cannot be built: {describe(error)}') from error


def check_head_site(component: type, head: dict, site: str) -> None:
    """ConversionError where the component of a head refuses a site that was asked for."""
    arguments = {key: value for key, value in head.items() if key != 'type'}
    try:
        _built(lambda rest: component(base=head['type'], afan=dict(site=site), **rest), arguments)
    except Exception as error:  # a head may need more than its config to be built
        if isinstance(error, ValueError) and 'site must be' in str(error):
            raise ConversionError(str(error)) from error


def check_path(host: Host, path: str) -> None:
    """ConversionError where a host has no module of that path, as far as its part can be built."""
    first, _, rest = path.partition('.')
    part = host.config[first]
    if isinstance(part, (list, tuple)):
        index, _, rest = rest.partition('.')
        if not index.isdigit() or int(index) >= len(part):
            raise ConversionError(
                f'sites must be modules of the host, but got {path!r}; {host.name(first)} is a '
                f'list of {len(part)}'
            )
        part = part[int(index)]
    try:
        module = _built(MODELS.build, part)
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


def _built(build: Callable[[dict], Any], part: dict) -> Any:
    """What ``build`` makes of the config of a part, without pretrained weights, and where that can
    be without any: they take time and random numbers.
    """

    def built_on(device: str) -> Any:
        config = copy.deepcopy(part)  # some modules take theirs apart
        without_weights(config)
        with torch.device(device), torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # the run will give them again
            return build(config)

    try:
        return built_on('meta')
    except Exception:  # building may fail in any way
        return built_on('cpu')
