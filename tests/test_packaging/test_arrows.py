"""Which module imports which: as the page on the architecture has it, and never in a circle."""

import ast
import re

import pytest

from support.paths import ROOT

PACKAGE = ROOT / 'afan_mm'
CHAINS = re.findall(r'^    (.* → .*)$', (ROOT / 'docs' / 'architecture.md').read_text(), re.M)


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob('*.py')}


def imports(name):
    """What a module of the package imports of it as it is imported itself."""
    path = MODULES[name]
    folder = path.parent.relative_to(PACKAGE).parts
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.ImportFrom) and statement.level:
            above = folder[: len(folder) + 1 - statement.level]
            source = '.'.join([*above, *(statement.module or '').split('.')]).strip('.')
            for each in statement.names:
                inner = f'{source}.{each.name}'.strip('.')
                yield inner if inner in MODULES else source


GRAPH = {name: set(imports(name)) - {name, ''} for name in MODULES if name}


def reached(name, graph):
    """All that a module imports, and what that imports."""
    found, waiting = set(), [name]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def circles(graph):
    return sorted(name for name in graph if name in reached(name, graph))


def test_no_module_imports_itself_by_way_of_others():
    assert circles(dict(a={'b'}, b={'c'}, c={'a'}, d={'a'})) == ['a', 'b', 'c']
    assert GRAPH['session'] > {'passes', 'joint'} and GRAPH['passes'] > {'recording', 'joint'}
    assert GRAPH['engine.optim_wrapper'] > {'session'}
    assert circles(GRAPH) == []


def test_the_page_has_arrows():
    assert len(CHAINS) >= 3


@pytest.mark.parametrize('chain', CHAINS)
def test_nothing_points_back(chain):
    """No member of a link imports one of a later link."""
    links = [re.split(r',\s*', link.strip()) for link in chain.split('→')]
    members = [
        {name for name in GRAPH for each in link if name == each or name.startswith(f'{each}.')}
        for link in links
    ]
    for index, link in enumerate(members):
        later = set().union(*members[index + 1 :])
        assert {name: GRAPH[name] & later for name in link if GRAPH[name] & later} == {}
