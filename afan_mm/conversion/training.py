"""What a converted config says beside its model: the optim wrapper, the hook, the import, and where
it runs.
"""

import os.path as osp
from typing import Any, Dict, List

from ..utils.configs import type_name
from .host import ConversionError

WRAPPERS = {'OptimWrapper': 'AFANOptimWrapper', 'AmpOptimWrapper': 'AFANAmpOptimWrapper'}


def training_overrides(cfg: Any, optim_wrapper: Dict[str, Any]) -> Dict[str, Any]:
    """Overrides of ``optim_wrapper``, ``custom_hooks`` and ``custom_imports``; lists are whole, as
    inheriting ones replace them.

    Args:
        cfg: The stock config.
        optim_wrapper: Further keys of the optim wrapper.
    """
    return dict(
        custom_imports=_imports(cfg.get('custom_imports') or {}),
        custom_hooks=_hooks(list(cfg.get('custom_hooks') or [])),
        optim_wrapper=dict(type=_wrapper_type(cfg.get('optim_wrapper')), **optim_wrapper),
    )


def run_overrides(cfg: Any, path: str) -> Dict[str, Any]:
    """Overrides of ``work_dir`` and ``resume`` where the stock config sets them: a run with A-FAN
    would replace the checkpoints of the stock one, or go on from them.

    Args:
        cfg: The stock config.
        path: Of the new one, whose name is that of the folder, as in tools/train.py.
    """
    name = osp.splitext(osp.basename(path))[0]
    own = dict(work_dir=f'work_dirs/{name}', resume=False)
    return {key: value for key, value in own.items() if cfg.get(key)}


def _wrapper_type(stock: Any) -> str:
    if not stock:
        raise ConversionError('the config has no optim_wrapper: it trains nothing')
    name = type_name(stock) or 'OptimWrapper'
    if name in WRAPPERS.values():
        raise ConversionError(
            f"the config is an A-FAN config already: optim_wrapper=dict(type='{name}', ...)"
        )
    if name not in WRAPPERS:
        raise ConversionError(
            f'optim_wrapper.type must be {" or ".join(WRAPPERS)}, which A-FAN has a twin of, but '
            f'got {name}'
        )
    several = [key for key, part in stock.items() if isinstance(part, dict) and 'optimizer' in part]
    if several:
        raise ConversionError(
            f'A-FAN trains with one optimizer, but optim_wrapper has several: {", ".join(several)}'
        )
    return WRAPPERS[name]


def _hooks(stock: List[Any]) -> List[Any]:
    there = any(isinstance(hook, dict) and type_name(hook) == 'AFANHook' for hook in stock)
    return stock if there else stock + [dict(type='AFANHook')]


def _imports(stock: Dict[str, Any]) -> Dict[str, Any]:
    imports = stock.get('imports') or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    return dict(
        imports=imports if 'afan_mm' in imports else imports + ['afan_mm'],
        # said of all of them: what the stock config can do without, the new one can, too
        allow_failed_imports=stock.get('allow_failed_imports', False),
    )
