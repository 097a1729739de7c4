"""Data samples as plain containers, whose tensors can be seen, exchanged and put together again."""

from functools import partial
from typing import Any, Callable, Dict, NamedTuple

from mmengine.structures import BaseDataElement


class Packed(NamedTuple):
    """A data element, taken apart; pytrees look into it."""

    make: Callable[[], BaseDataElement]
    fields: Dict[str, Any]


def pack(value: Any) -> Any:
    """Take the data elements in lists, tuples and dicts apart; tensors are shared."""
    if isinstance(value, BaseDataElement):
        return Packed(
            partial(type(value), metainfo=value.metainfo),
            {key: pack(field) for key, field in value.items()},
        )
    return _each(pack, value)


def unpack(value: Any) -> Any:
    """Make data elements of what :func:`pack` gave: new ones, since hosts rename and replace fields
    of theirs.
    """
    if isinstance(value, Packed):
        element = value.make()
        for key, field in value.fields.items():
            setattr(element, key, unpack(field))
        return element
    return _each(unpack, value)


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: change(part) for key, part in value.items()}
    if type(value) in (list, tuple):  # not a host's own kind of tuple
        return type(value)(change(part) for part in value)
    return value
