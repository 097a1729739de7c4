"""Config files: the stock one is read, and the new one written once it reads back as it should."""

import os
import os.path as osp
import tempfile
from typing import Any, List, Optional, Sequence, Tuple

from mmengine.config import Config

from ..utils.errors import UsageError, describe
from ..utils.files import replacing
from .config_text import config_text, explained, pure_python_text
from .convert import Conversion, convert, inherit
from .host import ConversionError
from .pure_python import is_pure_python, relative_module, with_classes
from .training import run_overrides


def converted_file(
    config: str,
    path: str,
    sites: Optional[Sequence[str]] = None,
    preset: Optional[str] = 'recommended',
    **afan: Any,
) -> Tuple[str, Config, List[str]]:
    """The text of a config file that inherits from another and trains with A-FAN, the config that
    it is, and sentences on what was chosen.

    Args:
        config: The stock config, a file or a name such as 'mmdet::NAME'.
        path: Where the text is to be; the address of ``config`` counts from there.
        sites, preset, afan: See :func:`convert`, whose ``max_tail_share`` is among ``afan``.

    Raises:
        UsageError: If the config cannot be read.
        ConversionError: If it cannot be converted, or the result not be written in a config.
    """
    cfg = read_stock(config)
    try:
        conversion = _with_a_run(cfg, path, convert(cfg, sites, preset, **afan))
        if is_pure_python(config):
            stated = with_classes(conversion.overrides)
            conversion = conversion._replace(overrides=stated)
            text = pure_python_text(relative_module(config, path), cfg, conversion)
        else:
            reference = config if '::' in config else _relative(config, path)
            text = config_text(reference, cfg, conversion)
    except ConversionError as error:
        raise ConversionError(f'{config} cannot be converted: {error}') from error
    return text, inherit(cfg, conversion.overrides), explained(conversion)


def _with_a_run(cfg: Config, path: str, conversion: Conversion) -> Conversion:
    """Where the new config runs, if the stock one says that of itself, with the reason."""
    overrides = run_overrides(cfg, path)
    notes = dict(
        work_dir='work_dir is its own: in that of the stock config are the stock checkpoints.',
        resume='resume is False: there is no run with A-FAN yet to go on from.',
    )
    return conversion._replace(
        overrides={**overrides, **conversion.overrides},
        notes=[*conversion.notes, *(notes[key] for key in overrides)],
    )


def write_config(path: str, text: str, expected: Config) -> None:
    """Write a config, once it has been read in its place and is what it should be.

    Raises:
        UsageError: If it cannot be read or is another one, or the file cannot be written.
    """
    try:
        with replacing(path) as temporary:
            with open(temporary, 'w', encoding='utf-8') as file:
                file.write(text)
            check_same(_read_back(temporary), expected)
    except OSError as error:
        raise UsageError(str(error)) from error


def _read_back(path: str) -> Config:
    try:
        return Config.fromfile(path)
    except Exception as error:  # a config is a program and may fail in any way
        raise UsageError(
            f'the new config cannot be read: {describe(error)}; nothing was written'
        ) from error


def read_stock(config: str) -> Config:
    """The config, as one that inherits from it finds it.

    Args:
        config: A file, or a name such as 'mmdet::NAME'.

    Raises:
        UsageError: If there is none, or it cannot be read or inherited from.
    """
    if '::' not in config and not osp.isfile(config):
        raise UsageError(f'config must be a file or a name such as mmdet::NAME, but got {config}')
    address = config if '::' in config else osp.abspath(config)
    try:
        if is_pure_python(config):
            return Config.fromfile(address)
        return read_text(f'_base_ = [{address!r}]\n')
    except ConversionError as error:
        raise ConversionError(f'{config} cannot be converted: {error}') from error
    except Exception as error:  # a config is a program and may fail in any way
        raise UsageError(f'cannot read config {config}: {describe(error)}') from error


def read_text(text: str) -> Config:
    """The config that a text is; files in it are named by their whole path."""
    with tempfile.TemporaryDirectory() as folder:
        path = osp.join(folder, 'config.py')
        with open(path, 'w', encoding='utf-8') as file:
            file.write(text)
        return Config.fromfile(path)


def same(one: Any, other: Any) -> bool:
    """Whether two configs say the same; mmengine adds ``_scope_`` to what a config takes from
    ``_base_`` by name.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        keys = (one.keys() | other.keys()) - {'_scope_'}
        return all(key in one and key in other and same(one[key], other[key]) for key in keys)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or callable(one) and callable(other) and _origin(one) == _origin(other)


def _origin(value: Any) -> Tuple[Any, ...]:
    """What stays of a function or class that a config defines, which is made anew each time the
    config is read.
    """
    names = (getattr(value, name, None) for name in ('__module__', '__qualname__'))
    return type(value), *names


def check_same(found: Config, expected: Config) -> None:
    """Complain of a written config that does not say what it should."""
    # of the pure Python style: what is imported is there as well
    imported = set().union(*(getattr(cfg, '_imported_names', ()) for cfg in (found, expected)))
    keys = [key for key in {**found._cfg_dict, **expected._cfg_dict} if key not in imported]
    different = [
        key
        for key in keys
        if not (key in found and key in expected and same(found[key], expected[key]))
    ]
    if different:
        raise UsageError(
            f'the new config does not read back as it should in {", ".join(different)}; nothing '
            'was written'
        )


def _relative(config: str, path: str) -> str:
    """The address of a config file from the folder of the new one."""
    address = osp.relpath(config, osp.dirname(path) or '.').replace(os.sep, '/')
    return address if address.startswith('.') else f'./{address}'
