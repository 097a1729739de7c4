"""Config files: reading the one to inherit from, and writing the one that inherits."""

import os
import os.path as osp
import re
import tempfile
import textwrap
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmengine.config import Config
from yapf.yapflib.yapf_api import FormatCode

from ..utils.errors import UsageError, describe
from ..utils.files import replacing
from .convert import Conversion, convert, inherit
from .host import ConversionError
from .pure_python import imports_of, is_pure_python, named, relative_module, with_classes

WIDTH = 120
MISSING = object()
STYLE = dict(
    based_on_style='pep8',
    column_limit=WIDTH,
    split_before_expression_after_opening_paren=True,
    split_before_named_assigns=False,
)


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
        conversion = convert(cfg, sites, preset, **afan)
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


def write_config(path: str, text: str, expected: Config) -> None:
    """Write a config, once it has been read in its place and is what it should be.

    Raises:
        UsageError: If it cannot be read, is not, or the file cannot be written.
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


def config_text(reference: str, cfg: Any, conversion: Conversion) -> str:
    """The text of a config that inherits and states the overrides, with the reasons as comments.

    Args:
        reference: What ``_base_`` names.
        cfg: The config of that name.
        conversion: That of ``cfg``.

    Raises:
        ConversionError: If an override cannot be written in a config.
    """
    lines = [_title(reference.rpartition('/')[2]), f'_base_ = [{reference!r}]']
    for key, value in conversion.overrides.items():
        lines += _why(key, cfg, conversion)
        lines.append(f'{key} = {_code(value, cfg.get(key), f"_base_.{key}")}')
    return _formatted(lines)


def pure_python_text(module: str, cfg: Any, conversion: Conversion) -> str:
    """The same in the pure Python style.

    Args:
        module: That of the config to inherit from.
        cfg: The config of that module.
        conversion: That of ``cfg``, with classes.

    Raises:
        ConversionError: If an override cannot be written in a config.
    """
    classes: Dict[str, type] = {}
    overrides = named(conversion.overrides, classes)
    inherited = {key: named(cfg[key]) for key in overrides if key in cfg}
    codes = {key: _code(each, inherited.get(key), key) for key, each in overrides.items()}
    used = {name: each for name, each in classes.items() if re.search(rf'\b{name}\b', str(codes))}
    lines = [_title(module), 'from mmengine.config import read_base', '', *imports_of(used), '']
    lines += ['with read_base():', f'    from {module} import *']
    for key, code in codes.items():
        lines += _why(key, cfg, conversion)
        merged = isinstance(inherited.get(key), dict)
        lines.append(f'{key}.merge({code})' if merged else f'{key} = {code}')
    return _formatted(lines)


def explained(conversion: Conversion) -> List[str]:
    """Sentences on the sites, on what has none, and on the settings."""
    reasons = [f'{name}: {reason}.' for name, reason in conversion.choices]
    reasons += [f'No site in {name}: {reason}.' for name, reason in conversion.left_out]
    return reasons + conversion.notes


def _title(name: str) -> str:
    return _comment(f'A-FAN for {name}. What is not stated here is inherited.')


def _why(key: str, cfg: Any, conversion: Conversion) -> List[str]:
    """The comments on an override."""
    if key == 'model':
        return ['', *map(_comment, explained(conversion))]
    if key == 'custom_hooks' and cfg.get(key):
        return ['# A list takes the place of an inherited one, so this one repeats it.']
    if key == 'optim_wrapper':
        stock = cfg[key].get('type', 'OptimWrapper')
        name = stock if isinstance(stock, str) else stock.__name__
        return [f'# In place of {name}, whose other keys stay.']
    return []


def _formatted(lines: List[str]) -> str:
    text, _ = FormatCode('\n'.join(lines) + '\n', style_config=STYLE)
    return text


def _comment(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent='# ', subsequent_indent='#   ')


def _code(value: Any, stock: Any, name: str) -> str:
    """An override as an expression; what is in the stock config already is called by its ``name``
    there.
    """
    if isinstance(value, dict):
        stock = stock if isinstance(stock, dict) else {}
        items = {key: _code(each, stock.get(key), f'{name}.{key}') for key, each in value.items()}
        if all(isinstance(key, str) and key.isidentifier() for key in items):
            return f'dict({", ".join(f"{key}={code}" for key, code in items.items())})'
        return '{' + ', '.join(f'{key!r}: {code}' for key, code in items.items()) + '}'
    if (
        isinstance(value, list)
        and isinstance(stock, list)
        and any(isinstance(each, dict) for each in stock)
    ):
        return _extended_list(value, stock, name)
    if isinstance(value, (list, tuple)):
        inside = ', '.join(_code(each, None, '') for each in value)
        if isinstance(value, list):
            return f'[{inside}]'
        return f'({inside}, )' if len(value) == 1 else f'({inside})'
    if isinstance(value, float):
        return _number(value)
    if value is None or isinstance(value, (bool, int, str)):
        return repr(value)
    raise ConversionError(f'a config cannot state {value!r}')


def _extended_list(value: list, stock: list, name: str) -> str:
    """A stock list, of which one dict has other keys or to which some are added."""
    parts, kept = [], None  # kept: where the run of elements that stay began
    for i, each in enumerate([*value, None]):
        same = i < len(stock) and each == stock[i]
        if kept is not None and not same:
            parts.append(
                f'*{name}'
                if kept == 0 and i == len(stock)
                else f'*{name}[{kept or ""}:{"" if i == len(stock) else i}]'
            )
        kept = (i if kept is None else kept) if same else None
        if same or i == len(value):
            continue
        if i < len(stock):
            changed = [
                f'{key}={_code(part, None, "")}'
                for key, part in each.items()
                if part != stock[i].get(key, MISSING)
            ]
            parts.append(f'dict({name}[{i}], {", ".join(changed)})')
        else:
            parts.append(_code(each, None, ''))
    return f'[{", ".join(parts)}]'


def _number(value: float) -> str:
    """A strength in 1/255 where that is shorter, as the paper writes it."""
    numerator = round(value * 255, 6)
    exact = numerator / 255 == value and len(repr(numerator)) + 6 < len(repr(value))
    return f'{numerator} / 255' if exact else repr(value)
