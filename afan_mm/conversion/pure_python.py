"""Configs in mmengine's pure Python style, which inherit by ``read_base()`` and name classes."""

import ast
import keyword
import os
import os.path as osp
import sys
from typing import Any, Dict, List, Optional

from mmengine.config import Config

from .. import engine, models
from .host import ConversionError

# what a converted config names of A-FAN
OWN = {name: getattr(part, name) for part in (engine, models) for name in part.__all__}


class Name(str):
    """A class, as a config of this style writes it."""

    def __repr__(self) -> str:
        return str(self)


def is_pure_python(config: str) -> bool:
    """Whether mmengine reads a config file as one of this style.

    Raises:
        ConversionError: If it does so for an import from the standard library alone, which makes
            another config of it, that no other can inherit.
    """
    if '::' in config or not config.endswith('.py') or not Config._is_lazy_import(config):
        return False
    with open(config, encoding='utf-8') as file:
        body = ast.parse(file.read()).body
    imported = [module for statement in body for module in _modules(statement)]
    standard = getattr(sys, 'stdlib_module_names', ())  # from Python 3.10
    if any(isinstance(statement, ast.With) for statement in body) or not all(
        module.partition('.')[0] in standard for module in imported
    ):
        return True
    raise ConversionError(
        f'mmengine takes it for the pure Python style, since it does not know {imported[0]} for a '
        'module of the standard library here; write _base_ = [] above the import'
    )


def _modules(statement: ast.stmt) -> List[str]:
    if isinstance(statement, ast.Import):
        return [name.name for name in statement.names]
    if isinstance(statement, ast.ImportFrom):
        return ['.' * statement.level + (statement.module or '')]
    return []


def with_classes(overrides: Dict[str, Any]) -> Dict[str, Any]:
    """What a converted config of this style states: the classes of A-FAN in place of their names,
    and no ``custom_imports``, which mmengine ignores in it.
    """

    def change(node: Any) -> Any:
        if isinstance(node, dict):
            kind = node.get('type')
            named = {} if not isinstance(kind, str) else dict(type=OWN.get(kind, kind))
            return {**{key: change(each) for key, each in node.items()}, **named}
        return [change(each) for each in node] if isinstance(node, list) else node

    return change({key: each for key, each in overrides.items() if key != 'custom_imports'})


def named(node: Any, classes: Optional[Dict[str, type]] = None) -> Any:
    """The same with names in place of classes, which are collected in ``classes`` by name.

    Raises:
        ConversionError: If two classes have one name.
    """
    classes = {} if classes is None else classes
    if isinstance(node, dict):
        return {key: named(each, classes) for key, each in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(named(each, classes) for each in node)
    if not isinstance(node, type):
        return node
    if classes.setdefault(node.__name__, node) is not node:
        raise ConversionError(f'two classes are called {node.__name__}')
    return Name(node.__name__)


def imports_of(classes: Dict[str, type]) -> List[str]:
    """The lines that import classes; those of A-FAN by the package itself."""
    lines = []
    for name, each in classes.items():
        own = each.__module__.startswith('afan_mm.')
        lines.append(f'from {"afan_mm" if own else each.__module__} import {name}')
    return sorted(lines)


def relative_module(config: str, path: str) -> str:
    """The module that a config file is, relative to the folder of another.

    Raises:
        ConversionError: If it is at no address that Python can import from.
    """
    address = osp.relpath(osp.splitext(config)[0], osp.dirname(path) or '.').split(os.sep)
    up = address.count(os.pardir)
    names = address[up:]
    if not all(name.isidentifier() and not keyword.iskeyword(name) for name in names):
        raise ConversionError(
            'folders and file must have names that Python can import from the new config, but its '
            f'address from there is {osp.join(*address)}'
        )
    return '.' * (up + 1) + '.'.join(names)
