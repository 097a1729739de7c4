"""The pages: their configs build, what they name exists, and every file says what it is for."""

import importlib.util
import re

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, HOOKS, LOOPS, METRICS, MODELS, OPTIM_WRAPPERS, TRANSFORMS

import afan_mm.experiments.sam  # noqa: F401  registers its optim wrapper
from support.paths import ROOT

tree = importlib.util.module_from_spec(
    importlib.util.spec_from_file_location('tree', ROOT / 'docs' / 'tree.py')
)
tree.__spec__.loader.exec_module(tree)

PAGES = sorted(path for path in (ROOT / 'docs').rglob('*.md') if '_build' not in path.parts) + [
    ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')
]
REGISTRIES = (MODELS, HOOKS, OPTIM_WRAPPERS, LOOPS, METRICS, TRANSFORMS, DATASETS)
BLOCK = re.compile(r'^```(\w+)\n(.*?)^```', re.S | re.M)


def blocks(path, language):
    return [code for found, code in BLOCK.findall(path.read_text()) if found == language]


CONFIGS = [
    pytest.param(code, id=f'{path.stem}-{index}')
    for path in PAGES
    for index, code in enumerate(blocks(path, 'python'))
    if '_base_' in code
]


@pytest.mark.parametrize('code', CONFIGS)
def test_configs_are_read_and_their_types_are_registered(code, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(code.replace("'../configs", f"'{ROOT}/configs"))
    cfg = Config.fromfile(str(path))
    types = set(re.findall(r"type='((?:AFAN|Robust)\w+)'", cfg.pretty_text))
    assert all(any(r.get(name) for r in REGISTRIES) for name in types)
    assert types or 'afan_mm' in cfg.custom_imports.imports[0]


def test_no_report_of_the_study_is_a_copy_of_another():
    reports = [path.read_bytes() for path in (ROOT / 'docs' / 'study').glob('*.json')]
    assert len(set(reports)) == len(reports) > 20


STOCK_HOOKS = dict(
    yolox='custom_hooks = [dict(type="YOLOXModeSwitchHook"), dict(type="EMAHook")]', none=''
)


@pytest.mark.parametrize('stock', STOCK_HOOKS)
@pytest.mark.parametrize(
    'code',
    # one that inherits an A-FAN config has other hooks in mind
    [c for c in CONFIGS if 'custom_hooks' in c.values[0] and '::' in c.values[0]],
)
def test_pasted_lines_keep_the_hooks_of_a_stock_config(code, stock, tmp_path):
    (tmp_path / 'stock.py').write_text(f'optim_wrapper = dict()\n{STOCK_HOOKS[stock]}\n')
    path = tmp_path / 'config.py'
    path.write_text(re.sub(r'_base_ = .*', "_base_ = ['stock.py']", code, count=1))
    names = [hook.type for hook in Config.fromfile(str(path)).custom_hooks]
    kept = ['YOLOXModeSwitchHook', 'EMAHook'] if stock == 'yolox' else []
    assert names[: len(kept)] == kept and 'AFANHook' in names[len(kept) :]


def test_every_registered_component_shows_a_config():
    shown = ''.join(
        code for path in (ROOT / 'docs' / 'api').glob('*.md') for code in blocks(path, 'python')
    )
    registered = {
        name
        for registry in REGISTRIES
        for name, made in registry.module_dict.items()
        if made.__module__.startswith('afan_mm')
    }
    assert {name for name in registered if f"type='{name}'" not in shown} == set()


@pytest.mark.parametrize('path', PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_exist(path):
    text = BLOCK.sub('', path.read_text())
    links = re.findall(r'\]\((?!https?:|#)([^)#\s]+)', text)
    named = re.findall(r'`((?:tests|tools|configs|afan_mm|docs)/[\w./-]+)`', text)
    missing = [link for link in links if not (path.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    # Made by an installation, not part of the tree.
    assert [name for name in missing if '.mim' not in name and '_build' not in name] == []


@pytest.mark.parametrize('folder', ('afan_mm', 'tools', 'tests/contracts', 'tests/support'))
def test_every_file_says_what_it_is_for(folder):
    listed = dict(tree.entries(ROOT / folder))
    assert len(listed) > 5 and all(len(said) > 10 for said in listed.values())


def test_the_page_lists_every_file_as_it_is():
    """After a change of files or of their first sentences: python docs/tree.py"""
    page = tree.PAGE.read_text()
    assert page.count('<!-- tree ') == 4 and '\n- `session.py`: One training step' in page
    assert tree.filled(page) == page
    changed = re.sub(r'\n- `session.py`.*', '', page).replace(
        '`taps.py`: Where', '`taps.py`: There'
    )
    assert changed != page and tree.filled(changed) == page


def test_purpose_is_the_first_sentence(tmp_path):
    path = tmp_path / 'module.py'
    path.write_text('"""Reads ``x.y`` and writes\nz, Eq. 5 of Li et al. (2018). More of it.\n"""\n')
    assert tree.purpose(path) == 'Reads x.y and writes z, Eq. 5 of Li et al. (2018)'
