"""Version bounds: what they allow, what an import says outside them, and that they stand once."""

import os
import re
import subprocess
import sys

import pytest
from mmengine.utils import digit_version

from afan_mm import versions
from afan_mm.versions import REQUIREMENTS, Requirement
from support.paths import ROOT


@pytest.mark.parametrize(
    'found, allowed',
    (
        ('1.9.9', False),
        ('2', True),
        ('2.0.0', True),
        ('2.0.0rc4', True),
        ('2.1.0+cpu', True),
        ('2.10', True),
        ('3.0', False),
        ('3.0.0.dev1', False),
    ),
)
def test_bounds(found, allowed):
    assert Requirement('m', 'p', '2.0', '3', '2.1', 'x').allows(found) is allowed


def test_no_upper_bound():
    need = Requirement('m', 'p', '2.0', None, '2.1', 'x')
    assert need.allows('9.1') and not need.allows('1.13.1') and need.bounds == '>=2.0'


def test_this_environment_is_fine():
    assert list(versions.problems()) == list(versions.untried()) == []


def import_with(folder, **packages):
    """What ``import afan_mm`` says beside packages of these versions."""
    for name, version in packages.items():
        info = folder / f'{name}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, '-c', 'import afan_mm'],
        env=dict(os.environ, PYTHONPATH=path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_import_refuses_what_is_too_old_or_too_new(tmp_path):
    result = import_with(tmp_path, mmengine='0.7.4', mmdet='4.0.0', mmcv='2.1.0')
    assert result.returncode != 0 and 'Traceback' in result.stdout
    assert 'mmengine >=0.8,<1, but found 0.7.4' in result.stdout
    assert 'mmdet >=3.0,<4, but found 4.0.0' in result.stdout
    assert 'mmcv' not in result.stdout.split('ImportError', 1)[1]


def test_import_warns_once_of_what_is_newer_than_tried(tmp_path):
    newer = dict(mmengine='0.98.1', mmdet='3.99')
    result = import_with(tmp_path, **newer, mmcv='2.1.0', mmsegmentation='1.0.0')
    assert result.returncode == 0 and result.stdout.count('Warning: ') == 1, result.stdout
    tried = {need.package: need.tried for need in REQUIREMENTS}
    told = [f'{name} {found} (tried: {tried[name]})' for name, found in newer.items()]
    said = f'newer than what afan_mm was tried with: {", ".join(told)}'
    assert said in result.stdout


def test_newest_that_was_tried_is_the_newest_of_the_stacks():
    files = [ROOT / 'requirements.txt', *(ROOT / 'tests' / 'stacks').glob('*.txt')]
    for need in REQUIREMENTS:
        pins = [
            re.findall(rf'^{need.package}={{2,3}}([\d.]+)', each.read_text(), re.M)
            for each in files
        ]
        assert need.tried == max((pin for found in pins for pin in found), key=digit_version)
    page = (ROOT / 'docs' / 'get_started.md').read_text()
    rows = dict(re.findall(r'^\| `(\w+)` \| `[^`]+` \| ([\d.]+) \|', page, re.M))
    rows.pop('python')
    assert rows == {need.package: need.tried for need in REQUIREMENTS}


def test_missing_mmengine_is_named(monkeypatch):
    find = versions.find_spec
    monkeypatch.setattr(versions, 'find_spec', lambda m: None if m == 'mmengine' else find(m))
    monkeypatch.setattr(versions, 'installed', lambda package: None)
    with pytest.raises(ImportError, match="needs mmengine, .* pip install 'mmengine>=0.8,<1'"):
        versions.check_versions()


@pytest.mark.parametrize('page', ('README.md', 'docs/get_started.md'))
def test_tables_of_the_pages_say_the_same(page):
    rows = dict(re.findall(r'^\| `(\w+)` \| `([^`]+)` \|', (ROOT / page).read_text(), re.M))
    python = re.search(r'requires-python = "(.*)"', (ROOT / 'pyproject.toml').read_text()).group(1)
    assert rows == {'python': python, **{need.package: need.bounds for need in REQUIREMENTS}}
