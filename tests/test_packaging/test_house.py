"""Habits of the code: what is private, where imports stand, what a tool is, functions on a screen."""

import ast
import re

import pytest

from support.paths import ROOT

# They run before anything is installed, and find one another beside themselves.
SET_UP = {
    f'tools/{name}.py'
    for name in ('setup_env', 'build_mmcv', 'mmcv_wheel', 'probe_env', 'virtual_env', 'quick')
}
NAMED_TUPLE = {'_replace', '_asdict', '_fields'}
# Of others, where they offer nothing else.
FOREIGN = {
    # torch
    '_version',
    '_foreach_mul_',
    '_foreach_norm',
    '_foreach_copy_',
    '_dynamo',  # `torch.compiler` before torch 2.1
    '_values',  # of a gradient that is not coalesced
    '_autograd',
    '_C',
    '_buffers',
    '_parameters',
    '_modules',
    '_metadata',
    '_BatchNorm',
    '_NormBase',
    '_DropoutNd',
    '_ConvTransposeNd',
    '_register_load_state_dict_pre_hook',  # public since torch 2.5
    # NumPy
    '_reconstruct',
    # mmengine
    '_run_forward',
    '_cfg_dict',
    '_is_lazy_import',
    '_inner_count',
    '_accumulative_counts',
    '_test_dataloader',
    '_test_evaluator',
    '_test_loop',
}


def files(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob('*.py'))


def name_of(path):
    return path.relative_to(ROOT).as_posix()


LIBRARY = {name_of(path): path.read_text() for path in files('afan_mm')}
TOOLS = {name_of(path): path.read_text() for path in files('tools')}
TESTS = {name_of(path): path.read_text() for path in files('tests')}


def is_private(name):
    return re.fullmatch(r'_[a-zA-Z]\w*', name) is not None


def own_names(node):
    """The private names that a class or module makes itself."""
    found = set()
    for each in ast.walk(node):
        if isinstance(each, (ast.FunctionDef, ast.ClassDef)):
            found.add(each.name)
        elif isinstance(each, (ast.Attribute, ast.Name)) and isinstance(each.ctx, ast.Store):
            found.add(each.attr if isinstance(each, ast.Attribute) else each.id)
    return found - {node.name if isinstance(node, ast.ClassDef) else ''}


def foreign_members(source):
    """Private members that are read where they are not made, in a module."""
    tree = ast.parse(source)
    inside = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            inside.update((each, node) for each in ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = inside.get(node)
            if owner is None or node.attr not in own_names(owner):
                yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (each.name for each in node.names if is_private(each.name))


def private_methods():
    """The private methods of each class of the package, and the classes that it derives from."""
    for source in LIBRARY.values():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
                bases = {getattr(base, 'attr', getattr(base, 'id', '')) for base in node.bases}
                yield node.name, {each for each in methods if is_private(each)}, bases


def imports_in_functions(source):
    """What is imported when a function runs, with whether it says why: on its line or above it."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        for each in ast.walk(node) if isinstance(node, ast.FunctionDef) else ():
            if isinstance(each, (ast.Import, ast.ImportFrom)):
                above, own = lines[each.lineno - 2], lines[each.end_lineno - 1]
                is_own = isinstance(each, ast.ImportFrom) and each.level > 0
                text = ast.get_source_segment(source, each)
                is_own = is_own or 'afan_mm' in text
                yield text, is_own, '#' in own or above.strip().startswith('#')


def test_the_rules_see_what_breaks_them():
    source = (
        'from .b import _c\n\n\nclass A:\n    def _m(self):\n        from .x import y\n'
        '        return self._m, self._n, other._o, self._p\n\n    def n(self):\n'
        '        import z  # late\n        self._p = 1\n'
    )
    assert sorted(foreign_members(source)) == ['_c', '_n', '_o']
    assert [each[1:] for each in imports_in_functions(source)] == [(True, False), (False, True)]


@pytest.mark.parametrize('name', [*LIBRARY, *sorted(set(TOOLS) - SET_UP)])
def test_nothing_lives_on_the_private_members_of_another(name):
    found = set(foreign_members({**LIBRARY, **TOOLS}[name]))
    assert found - FOREIGN - NAMED_TUPLE == set()


def test_no_class_replaces_a_private_method_of_another():
    classes = list(private_methods())
    private, parents = {}, {}
    for name, methods, bases in classes:
        private.setdefault(name, set()).update(methods)
        parents.setdefault(name, set()).update(bases)

    def above(name):
        return {
            each for base in parents.get(name, ()) if base != name for each in (base, *above(base))
        }

    found = {
        (name, base): private[name] & private.get(base, set())
        for name in private
        for base in above(name)
    }
    assert {pair: names for pair, names in found.items() if names} == {}


@pytest.mark.parametrize('name', [*LIBRARY, *sorted(set(TOOLS) - SET_UP)])
def test_an_import_inside_a_function_is_of_another_package_and_says_why(name):
    found = list(imports_in_functions({**LIBRARY, **TOOLS}[name]))
    assert [statement for statement, is_own, why in found if is_own or not why] == []


def test_engine_imports_no_models():
    engine = ''.join(source for name, source in LIBRARY.items() if '/engine/' in name)
    assert not re.search(r'^\s*(from|import)\s.*\bmodels\b(?!\s+import unwrapped)', engine, re.M)


@pytest.mark.parametrize('name', sorted(set(TOOLS) - SET_UP))
def test_a_tool_is_a_command(name):
    """It changes no path, imports no other tool, and its functions are said what they are for."""
    tree, source = ast.parse(TOOLS[name]), TOOLS[name]
    others = {path.rpartition('/')[2][: -len('.py')] for path in TOOLS}
    imported = re.findall(r'^\s*(?:from|import)\s+(\w+)', source, re.M)
    assert 'sys.path' not in source and not others & set(imported)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    plain = {'parse_args', 'main'}  # said by the tool's own docstring
    assert ast.get_docstring(tree)
    assert [f.name for f in functions if f.name not in plain and not ast.get_docstring(f)] == []


@pytest.mark.parametrize('name', [*LIBRARY, *TOOLS])
def test_a_function_is_seen_at_once(name):
    """What it does, without its signature and docstring, in 60 lines."""
    long = {}
    for node in ast.walk(ast.parse({**LIBRARY, **TOOLS}[name])):
        if isinstance(node, ast.FunctionDef):
            said = ast.get_docstring(node) is not None
            lines = node.end_lineno - (node.body[0].end_lineno if said else node.body[0].lineno - 1)
            long[node.name] = lines
    assert {key: lines for key, lines in long.items() if lines > 60} == {}


def test_what_the_linter_is_told_to_overlook_says_why():
    told = {
        f'{name}: {line.strip()}'
        for name, source in {**LIBRARY, **TOOLS, **TESTS}.items()
        for line in source.splitlines()
        if re.search(r'# noqa(: [A-Z0-9]+)?$', line)
    }
    assert told == set()


@pytest.mark.parametrize('name', [n for n in TESTS if not n.startswith('tests/support/')])
def test_no_test_imports_another(name):
    found = re.findall(
        r'^\s*(?:from|import)\s+((?:tests|test_\w+|contracts)\b.*)$', TESTS[name], re.M
    )
    assert found == []
