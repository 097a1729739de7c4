"""Arguments: what is allowed, and an error that names the argument, what is allowed and what came.

Every function returns the value, so that it can be checked where it is used.
"""

import math
from numbers import Real
from typing import Any, Sequence


def check_integer(key: str, value: Any, least: int) -> int:
    """An integer of at least ``least``; a bool is none.

    Raises:
        ValueError: ``<key> must be an integer >= <least>, but got <value>``.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f'{key} must be an integer >= {least}, but got {value!r}')
    return value


def check_number(
    key: str, value: Any, least: float = 0, most: float = math.inf, above: bool = False
) -> float:
    """A finite number from ``least`` to ``most``; a bool is none.

    Args:
        above: Whether ``least`` itself is too small. Defaults to False.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is not finite, or out of range.
    """
    if math.isfinite(most):
        allowed = f'in {"(" if above else "["}{least:g}, {most:g}]'
    else:
        allowed = f'{">" if above else ">="} {least:g}'
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f'{key} must be a number {allowed}, but got {value!r}')
    too_small = value <= least if above else value < least
    if not math.isfinite(value) or too_small or value > most:
        raise ValueError(f'{key} must be a finite number {allowed}, but got {value!r}')
    return value


def check_choice(key: str, value: Any, allowed: Sequence[Any]) -> Any:
    """One of ``allowed``.

    Raises:
        ValueError: ``<key> must be one of <allowed>, but got <value>``.
    """
    if value not in allowed:
        raise ValueError(f'{key} must be one of {tuple(allowed)}, but got {value!r}')
    return value


def check_type(key: str, value: Any, kind: type) -> Any:
    """An instance of ``kind``.

    Raises:
        TypeError: ``<key> must be a <kind>, but got <value>``.
    """
    if not isinstance(value, kind):
        raise TypeError(f'{key} must be a {kind.__name__}, but got {value!r}')
    return value


def read_quotient(key: str, value: Any) -> Any:
    """A number, also one that is written as a quotient such as '0.4/255', as the paper writes its
    strengths: that is how it is typed on a command line. What is no string comes back as it is.

    Raises:
        ValueError: If a string is neither a number nor a quotient.
    """
    if not isinstance(value, str):
        return value
    above, _, below = value.partition('/')
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f'{key} must be a number or a quotient such as 0.4/255, but got {value!r}'
        ) from None
