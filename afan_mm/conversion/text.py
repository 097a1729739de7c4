"""An inheriting config as text."""

import textwrap
from typing import Any, Sequence

from yapf.yapflib.yapf_api import FormatCode

from .convert import Conversion
from .host import ConversionError

WIDTH = 120
MISSING = object()
STYLE = dict(
    based_on_style='pep8',
    column_limit=WIDTH,
    split_before_expression_after_opening_paren=True,
    split_before_named_assigns=False,
)


def config_text(reference: str, cfg: Any, conversion: Conversion, notes: Sequence[str] = ()) -> str:
    """The text of a config that inherits and states the overrides, with the reasons as comments.

    Args:
        reference: What ``_base_`` names.
        cfg: The config of that name.
        conversion: That of ``cfg``.
        notes: Further comments on the model.

    Raises:
        ConversionError: If an override cannot be written in a config.
    """
    name = reference.rpartition('/')[2]
    lines = [
        _comment(f'A-FAN for {name}. What is not stated here is inherited.'),
        f'_base_ = [{reference!r}]',
    ]
    reasons = [f'{name}: {reason}.' for name, reason in conversion.choices]
    reasons += [f'No site in {name}: {reason}.' for name, reason in conversion.left_out]
    for key, value in conversion.overrides.items():
        if key == 'model':
            lines += ['', *map(_comment, [*reasons, *notes])]
        elif key == 'custom_hooks' and cfg.get(key):
            lines.append('# A list takes the place of an inherited one, so this one repeats it.')
        elif key == 'optim_wrapper':
            lines.append(
                f'# In place of {cfg[key].get("type", "OptimWrapper")}, whose other keys stay.'
            )
        lines.append(f'{key} = {_code(value, cfg.get(key), f"_base_.{key}")}')
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
        return (
            f'[{inside}]'
            if isinstance(value, list)
            else f'({inside})'
            if len(value) > 1
            else f'({inside}, )'
        )
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
