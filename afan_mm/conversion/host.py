"""Which model of a config trains, and what is known of it before anything is built."""

from contextlib import contextmanager
from importlib import import_module
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope

from ..models.component import AFANComponent, find_model, parameter
from ..utils.configs import library_of_class, type_name
from ..utils.errors import UsageError

PARTS = ('backbone', 'neck', 'decode_head', 'roi_head', 'head')
NO_MODULES = ('data_preprocessor', 'init_cfg')  # have a type, and no features


class ConversionError(UsageError):
    """A config that cannot be converted; the message says why, in one line."""


class Host(NamedTuple):
    """The model that owns the parts with sites."""

    path: Tuple[str, ...]
    config: dict
    cls: type

    @property
    def library(self) -> Optional[str]:
        """The library whose model it is or derives from; None: no library's."""
        return library_of_class(self.cls)

    @property
    def modules(self) -> List[str]:
        """The keys of its parts that are modules or lists of such, in which sites can be."""
        return [
            key for key, part in self.config.items() if key not in NO_MODULES and _has_type(part)
        ]

    def name(self, *keys: Any) -> str:
        """A part of it as messages write it, such as 'model.decode_head[1]'."""
        return ''.join(
            f'[{key}]' if isinstance(key, int) else f'.{key}' for key in (*self.path, *keys)
        )[1:]


@contextmanager
def in_scope(scope: Optional[str]) -> Iterator[None]:
    """Registered names mean what they mean in a run of a config with this ``default_scope``."""
    if scope is None:
        yield
        return
    try:
        if scope not in MODELS.children:
            import_module(scope)
    except ImportError as error:
        raise ConversionError(
            f'default_scope of the config is {scope!r}, which cannot be imported: {error}'
        ) from error
    with DefaultScope.overwrite_default_scope(scope):
        yield


def find_class(kind: Any, name: str) -> type:
    """The class of a ``type``; ConversionError, with the ``name`` of the part, where it is not a
    registered one.
    """
    if isinstance(kind, type):  # in the pure Python style
        return kind
    if not isinstance(kind, str):
        raise ConversionError(f'{name}.type must be a registered name or a class, but got {kind!r}')
    try:
        found = find_model(kind)
    except (KeyError, ImportError) as error:
        raise ConversionError(
            str(error.args[0]).replace('base must be the type of', f'{name}.type must be')
        ) from error
    if not isinstance(found, type):
        raise ConversionError(f'{name}.type must be a class, but {kind!r} is a function')
    return found


def find_host(model: Any, path: Tuple[str, ...] = ('model',)) -> Host:
    """The outermost model with a backbone or a head; that of a tracker or of semi-supervised
    training lies in ``detector``.
    """
    name = '.'.join(path)
    if not isinstance(model, dict) or not _has_type(model):
        raise ConversionError(f'{name} must be a dict with a type, but got {model!r}')
    cls = find_class(model['type'], name)
    if any(model.get(part) for part in PARTS):
        return Host(path, model, cls)
    for key, part in model.items():
        if isinstance(part, dict) and _has_type(part) and _is_model(part['type']):
            return find_host(part, (*path, key))
    raise ConversionError(
        f'{name} is a {cls.__name__} with none of {", ".join(PARTS)}, and no model in it has one'
    )


def refuse_converted(node: Any, path: str) -> None:
    """ConversionError where a component of A-FAN is in a part of a config already."""
    if isinstance(node, dict):
        kind = node.get('type')
        if isinstance(kind, (str, type)) and issubclass(_known_class(kind), AFANComponent):
            raise ConversionError(
                f"the config is an A-FAN config already: {path}=dict(type='{type_name(node)}', ...)"
            )
        children = [(f'{path}.{key}', child) for key, child in node.items()]
    else:
        children = [
            (f'{path}[{i}]', child)
            for i, child in enumerate(node if isinstance(node, (list, tuple)) else ())
        ]
    for name, child in children:
        refuse_converted(child, name)


def num_levels(backbone: Any) -> Optional[int]:
    """How many features a backbone returns; None where neither the config nor its class says."""
    indices = (backbone or {}).get('out_indices')
    if indices is None and backbone:
        declared = parameter(_known_class(backbone.get('type')), 'out_indices')
        indices = None if declared is None else declared.default
    return len(indices) if isinstance(indices, (list, tuple)) else None


def level_read(host: Host) -> int:
    """The last level of the backbone that matters to the losses; -1: the very last."""
    neck, head = (
        part[at] if isinstance(part, (list, tuple)) and part else part
        for part, at in ((host.config.get('neck'), 0), (host.config.get('decode_head'), -1))
    )
    return last_level_read(neck or head or {}, num_levels(host.config.get('backbone')))


def last_level_read(reader: dict, count: Optional[int]) -> int:
    """The last of ``count`` features that a neck or head reads, by its ``in_index`` or
    ``end_level``; -1: the very last.
    """
    read: List[int] = []
    for key in ('in_index', 'end_level'):
        value = reader.get(key)
        read += [
            index
            for index in (value if isinstance(value, (list, tuple)) else [value])
            if isinstance(index, int)
        ]
    if not read or min(read) < 0 or max(read) + 1 == count:
        return -1
    return max(read)


def _has_type(part: Any) -> bool:
    """Whether a part says what to build, or each of a list of parts."""
    if isinstance(part, (list, tuple)):
        return len(part) > 0 and all(map(_has_type, part))
    return isinstance(part, dict) and 'type' in part


def _known_class(kind: Any) -> type:
    """The class of a ``type``, or ``object``: of a part that is left as it is, nothing needs to be
    known.
    """
    try:
        return find_class(kind, '')
    except ConversionError:
        return object


def _is_model(kind: Any) -> bool:
    return issubclass(_known_class(kind), BaseModel)
