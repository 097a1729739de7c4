"""How a converted config is written: what it inherits from, the overrides, and in comments why.

What a stock config has already is called by its name there, so that the new one stays short.
"""

import itertools
import re
import textwrap
from typing import Any, Dict, List

from yapf.yapflib.yapf_api import FormatCode

from .convert import Conversion
from .host import ConversionError
from .pure_python import imports_of, named

WIDTH = 120
MISSING = object()
STYLE = dict(
    based_on_style='pep8',
    column_limit=WIDTH,
    split_before_expression_after_opening_paren=True,
    split_before_named_assigns=False,
)


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
    stays = [i < len(stock) and each == stock[i] for i, each in enumerate(value)]
    parts: List[str] = []
    for kept, indices in itertools.groupby(range(len(value)), stays.__getitem__):
        run = list(indices)
        if kept:
            parts.append(_slice(name, run[0], run[-1] + 1, len(stock)))
        else:
            parts += [
                _changed_dict(value[i], stock[i], f'{name}[{i}]')
                if i < len(stock)
                else _code(value[i], None, '')
                for i in run
            ]
    return f'[{", ".join(parts)}]'


def _slice(name: str, start: int, stop: int, length: int) -> str:
    """Elements of a list of this length, inside another one."""
    if (start, stop) == (0, length):
        return f'*{name}'
    return f'*{name}[{start or ""}:{"" if stop == length else stop}]'


def _changed_dict(value: dict, stock: dict, name: str) -> str:
    """A dict of a stock list, with what is different in it."""
    changed = [
        f'{key}={_code(part, None, "")}'
        for key, part in value.items()
        if part != stock.get(key, MISSING)
    ]
    return f'dict({name}, {", ".join(changed)})'


def _number(value: float) -> str:
    """A strength in 1/255 where that is shorter, as the paper writes it."""
    numerator = round(value * 255, 6)
    exact = numerator / 255 == value and len(repr(numerator)) + 6 < len(repr(value))
    return f'{numerator} / 255' if exact else repr(value)
