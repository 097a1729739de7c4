"""Configs: reading one, and what is in it."""

import os.path as osp
from typing import Any, Dict, Iterator, Optional

from mmengine.config import Config

from .errors import UsageError, describe


def type_name(config: Any) -> str:
    """The type that a part of a config names, without its scope; '' where it names none.

    Args:
        config: A part of a config, whose ``type`` may be a name such as 'mmdet.FPN', or a class.
    """
    kind = config.get('type', '')
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def dicts(node: Any) -> Iterator[dict]:
    """Every dict in a part of a config, itself the first."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    for child in node if isinstance(node, (list, tuple)) else ():
        yield from dicts(child)


def read_config(path: str, options: Optional[Dict[str, Any]] = None) -> Config:
    """A config with changes.

    Args:
        path: A config file.
        options: New values by key, such as ``{'train_cfg.max_iters': 100}``. Defaults to none.

    Raises:
        UsageError: If there is no such config, it cannot be read, or the changes do not fit.
    """
    if not osp.isfile(path):
        raise UsageError(f'config must be a file, but got {path}')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program and may fail in any way
        raise UsageError(f'cannot read config {path}: {describe(error)}') from error
    if options:
        try:
            cfg.merge_from_dict(options)
        except Exception as error:
            raise UsageError(f'--cfg-options do not fit {path}: {describe(error)}') from error
    return cfg


def find_host(cfg: Config, option: str) -> str:
    """The library of a config's model: 'mmdet', 'mmseg' or 'mmpretrain', its ``default_scope``.

    Args:
        option: What needs to know, for the message.

    Raises:
        UsageError: If it is none of them.
    """
    host = cfg.get('default_scope')
    if host not in ('mmdet', 'mmseg', 'mmpretrain'):
        raise UsageError(
            f"{option} needs a config with default_scope 'mmdet', 'mmseg' or 'mmpretrain', but "
            f'got {host!r}'
        )
    return host
