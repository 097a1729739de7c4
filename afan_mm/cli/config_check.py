"""Is what a config says of A-FAN right? If not, say so in one line, before data is read and, as far
as the config is enough, before a model is built.
"""

import copy
import difflib
import warnings
from typing import Any, Dict, Iterator, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPERS, Registry
from torch import nn

from ..auxiliary_norms import check_auxiliary_norms
from ..conversion.host import in_scope
from ..declared import declared_sites, trained_modules
from ..engine import AFANFeatureMapHook, AFANHook
from ..engine.optim_wrapper import AFANOptimMixin, check_arguments
from ..engine.site_table import check_sites
from ..joint import complement
from ..models.component import (
    SETTINGS,
    AFANComponent,
    check_part,
    did_you_mean,
    find_model,
    parameter,
)
from ..utils.errors import UsageError, describe, is_message, where_raised

COMPONENTS = dict(
    neck='AFANNeckWrapper', decode_head='AFANDecodeHead', roi_head='AFANRoIHead', head='AFANClsHead'
)
WRAPPER_KEYS = ('type', '_scope_', 'constructor', 'paramwise_cfg')  # not the wrapper's own


def check_config(cfg: Config) -> None:
    """Complain of what is wrong with the A-FAN parts of a config, as far as it shows there.

    Raises:
        UsageError: With the part, what is allowed and what came.
    """
    if 'afan' not in repr(cfg._cfg_dict).lower():
        return
    with in_scope(cfg.get('default_scope')):
        for path, part in _parts('model', cfg.get('model')):
            _named(path, _check_part, path, part)
        _check_wrapper(cfg.get('optim_wrapper'))
        for i, hook in enumerate(cfg.get('custom_hooks') or []):
            _named(f'custom_hooks[{i}]', _check_hook, hook)
        for name, hook in (cfg.get('default_hooks') or {}).items():
            _named(f'default_hooks.{name}', _check_hook, hook)


def check_model(cfg: Config) -> None:
    """Complain of sites that the model of a training run does not have, and of settings that do not
    go together. The model is built for it, where that can be without its weights.

    Raises:
        UsageError: Also where the model cannot be built, with the file and line that say so.
    """
    if 'afan' not in repr(cfg._cfg_dict).lower() or not isinstance(cfg.get('model'), dict):
        return
    with in_scope(cfg.get('default_scope')):
        model = _built(cfg)
        settings = [each for _, each in declared_sites(model)]
        optim_wrapper = cfg.get('optim_wrapper') or {}
        wrapper = class_of(OPTIM_WRAPPERS, optim_wrapper.get('type', 'OptimWrapper'))
        try:
            if wrapper is not None:
                check_sites(declared_sites(model), wrapper)
            if optim_wrapper.get('clean_weight') == 'complement':
                complement(settings)
            for _, module in trained_modules(model):
                if hasattr(module, 'afan_check'):
                    module.afan_check(model)
            check_auxiliary_norms(model)
        except (ValueError, RuntimeError) as error:
            raise UsageError(f'model: {error}') from error


def _named(path: str, check: Any, *args: Any) -> None:
    """Have the message of a check begin with the part of the config that it is about."""
    try:
        check(*args)
    except (TypeError, ValueError) as error:
        raise UsageError(f'{path}: {error}') from error


def _parts(path: str, node: Any) -> Iterator[Tuple[str, Dict[str, Any]]]:
    """Every dict in a part of a config, with its path; not those that are settings of a site."""
    if isinstance(node, dict):
        yield path, node
        children = [(f'{path}.{key}', child) for key, child in node.items() if key != 'afan']
    else:
        several = node if isinstance(node, (list, tuple)) else ()
        children = [(f'{path}[{i}]', child) for i, child in enumerate(several)]
    for name, child in children:
        yield from _parts(name, child)


def _check_part(path: str, part: Dict[str, Any]) -> None:
    kind = part.get('type')
    cls = class_of(MODELS, kind)
    if isinstance(cls, type) and issubclass(cls, AFANComponent):
        check_part(cls, path)
        return cls.check_config(part)
    _refuse_unknown(MODELS, kind, cls)
    name = path.rpartition('.')[2].partition('[')[0]
    write = f'type={COMPONENTS.get(name, "AFANNeckWrapper")!r}'
    write += '' if 'base' in part else f', base={kind!r}'
    for key in ('afan', 'base') if cls is None or isinstance(cls, type) else ():
        given = key in part and (key == 'afan' or isinstance(part[key], str))
        if given and (cls is None or parameter(cls, key) is None):
            raise ValueError(
                f'{key} goes with an A-FAN component: write dict({write}, ...), but got '
                f'type={kind!r} with {key}={part[key]!r}'
            )


def _check_wrapper(config: Any) -> None:
    if not isinstance(config, dict):
        return
    kind = config.get('type', 'OptimWrapper')
    cls = class_of(OPTIM_WRAPPERS, kind)
    _named('optim_wrapper', _refuse_unknown, OPTIM_WRAPPERS, kind, cls)
    if not isinstance(cls, type):
        return
    own = {key: config[key] for key in ('afan_seed', 'clean_weight') if key in config}
    if own and not issubclass(cls, AFANOptimMixin):
        raise UsageError(
            f'optim_wrapper: {", ".join(own)} goes with AFANOptimWrapper or AFANAmpOptimWrapper, '
            f'but got type={kind!r}'
        )
    if own:
        _named('optim_wrapper', lambda: check_arguments(**own))
    for key in () if 'constructor' in config or not issubclass(cls, OptimWrapper) else config:
        if key in WRAPPER_KEYS or parameter(cls, key) is not None:
            continue
        known = ('afan_seed', 'clean_weight', 'optimizer', 'accumulative_counts', 'clip_grad')
        where = '; it is a setting of a site, for afan=dict(...)' if key in SETTINGS else ''
        raise UsageError(
            f'optim_wrapper: {cls.__name__} has no argument {key!r}, but got {config[key]!r}'
            f'{where or did_you_mean(key, (*known, *WRAPPER_KEYS))}'
        )


def _check_hook(config: Any) -> None:
    """The hook itself: a dict among its arguments may be of any registry, or of none."""
    if not isinstance(config, dict):
        return
    if 'type' not in config:
        raise ValueError(f'a hook needs a type, but got {dict(config)!r}')
    kind = config['type']
    cls = class_of(HOOKS, kind)
    _refuse_unknown(HOOKS, kind, cls)
    if cls in (AFANHook, AFANFeatureMapHook):
        cls(**{k: v for k, v in config.items() if k not in ('type', '_scope_', 'priority')})


def class_of(registry: Registry, kind: Any) -> Optional[Any]:
    """What a ``type`` names in the scope of the running config, or None."""
    if not isinstance(kind, str) or not kind:  # registries fail on ''
        return kind if callable(kind) else None
    try:
        if registry is MODELS:
            return find_model(kind)
        with registry.switch_scope_and_registry(None) as scoped:
            return scoped.get(kind)
    except (KeyError, ImportError):  # the runner will say so
        return None


def _refuse_unknown(registry: Registry, kind: Any, found: Any) -> None:
    """Complain of a name that must be meant to be one of A-FAN's."""
    if found is not None:
        return
    if isinstance(kind, str):
        known = [name for name in registry.module_dict if name.startswith('AFAN')]
        # a library's 'Model' is not meant to be AFANModel
        close = difflib.get_close_matches(kind, known, cutoff=0.85)
        if close or kind.lower().startswith('afan'):
            hint = did_you_mean(kind, known)
            raise ValueError(f'type must be one of {", ".join(known)}, but got {kind!r}{hint}')
    # the parts of a model are of many registries, and some of none
    if registry is MODELS and (kind is None or isinstance(kind, str)):
        return
    raise ValueError(f'type must be the name of a registered {registry.name}, but got {kind!r}')


def _built(cfg: Config) -> nn.Module:
    """The model; on no device, without weights, where that can be."""
    config = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        config.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    reason: Exception = RuntimeError()
    for device in ('meta', 'cpu'):
        try:
            with torch.random.fork_rng(devices=[]), torch.device(device), warnings.catch_warnings():
                warnings.simplefilter('ignore')  # the run will give them again
                return MODELS.build(copy.deepcopy(config))
        except UsageError as error:
            raise UsageError(f'model: {error}') from error
        except Exception as error:  # building may fail in any way
            reason = error
    where = '' if is_message(reason) else f' ({where_raised(reason)})'
    raise UsageError(f'the model cannot be built: {describe(reason)}{where}') from reason
