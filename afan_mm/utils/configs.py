"""Configs: reading one, and what is in it."""

import difflib
import os
import os.path as osp
from typing import Any, Dict, Iterator, List, Optional

from mmengine.config import Config
from mmengine.utils import get_installed_path

from .errors import UsageError, describe

LIBRARIES = ('mmdet', 'mmpretrain', 'mmseg')


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


def image_datasets(dataset: dict) -> List[dict]:
    """The configs of the data sets that read the images: itself, what a wrapper such as
    RepeatDataset holds, or each that a ConcatDataset does.
    """
    inside = dataset.get('datasets') or [dataset.get('dataset')]
    found = [each for part in inside if isinstance(part, dict) for each in image_datasets(part)]
    return found or [dataset]


def read_config(path: str, options: Optional[Dict[str, Any]] = None) -> Config:
    """A config with changes.

    Args:
        path: A config file, or the name of one that a package installs, such as 'mmdet::NAME'.
        options: New values by key, such as ``{'train_cfg.max_iters': 100}``. Defaults to none.

    Raises:
        UsageError: If there is no such config, it cannot be read, or the changes do not fit.
    """
    file = config_file(path)
    try:
        cfg = Config.fromfile(file)
    except Exception as error:  # a config is a program and may fail in any way
        raise UsageError(f'cannot read config {path}: {describe(error)}') from error
    if options:
        try:
            cfg.merge_from_dict(options)
        except Exception as error:
            raise UsageError(f'--cfg-options do not fit {path}: {describe(error)}') from error
    return cfg


def config_file(path: str) -> str:
    """The file that a config is.

    Args:
        path: As that of :func:`read_config`.

    Raises:
        UsageError: If there is none.
    """
    package, is_name, name = path.partition('::')
    if not is_name:
        if not osp.isfile(path):
            raise UsageError(f'config must be a file, but got {path}')
        return path
    try:
        file = osp.join(get_installed_path(package), '.mim', 'configs', name)
    except Exception as error:  # pkg_resources and importlib have errors of their own
        raise UsageError(f'config must be of an installed package, but got {path}') from error
    if not osp.isfile(file):
        folder = osp.dirname(file)
        near = difflib.get_close_matches(
            osp.basename(name), os.listdir(folder) if osp.isdir(folder) else (), n=1, cutoff=0.4
        )
        hint = (
            f'; did you mean {path[: len(path) - len(osp.basename(name))]}{near[0]}?'
            if near
            else ''
        )
        raise UsageError(f'config must be one that {package} installs, but got {path}{hint}')
    return file


def library_of_class(cls: type) -> Optional[str]:
    """The library that a model's class is of or derives from; None: no library's."""
    packages = (each.__module__.partition('.')[0] for each in cls.__mro__)
    return next((package for package in packages if package in LIBRARIES), None)


def library_of(cfg: Config, option: str) -> str:
    """The library of a config's model: 'mmdet', 'mmseg' or 'mmpretrain', its ``default_scope``, or
    where that is none of them, as in the pure Python style, what its type says.

    Args:
        option: What needs to know, for the message.

    Raises:
        UsageError: If it is none of them.
    """
    scope, kind = cfg.get('default_scope'), (cfg.get('model') or {}).get('type')
    own = library_of_class(kind) if isinstance(kind, type) else str(kind).partition('.')[0]
    for library in (scope, own):
        if library in LIBRARIES:
            return library
    raise UsageError(
        f"{option} needs a config with default_scope 'mmdet', 'mmseg' or 'mmpretrain', or a model "
        f'of one of them, but got {scope!r}'
    )
