"""What pip installs is complete: configs, tools, model index, types, and the command ``afan``."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from support.paths import ROOT

SOURCES = ('afan_mm', 'configs', 'tools')
FILES = ('pyproject.toml', 'setup.py', 'MANIFEST.in', 'README.md', 'LICENSE', 'model-index.yml')


def run(*command, cwd, python_path=''):
    """A process in ``cwd``, where nothing of the source tree can be imported; its output."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=str(cwd),
        env=dict(os.environ, PYTHONPATH=str(python_path), OMP_NUM_THREADS='1'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    return result.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel of a copy of the source tree, as pip builds it."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    source.mkdir()
    ignored = shutil.ignore_patterns('__pycache__', '.mim', '*.pyc')
    for name in SOURCES:
        shutil.copytree(str(ROOT / name), str(source / name), ignore=ignored)
    for name in FILES:
        shutil.copy2(str(ROOT / name), str(source / name))
    options = ('--no-deps', '--no-build-isolation', '--no-index', '--quiet')
    run('-m', 'pip', 'wheel', *options, '--wheel-dir', folder, source, cwd=folder)
    (path,) = folder.glob('*.whl')
    return path


def files(source, folder):
    """Those below a folder of the copied source tree, relative to it."""
    paths = (source / folder).rglob('*')
    return {path.relative_to(source).as_posix() for path in paths if path.is_file()}


def test_wheel_holds_package_configs_tools_and_index(wheel):
    names = {name for name in zipfile.ZipFile(str(wheel)).namelist() if '.dist-info/' not in name}
    source = wheel.parent / 'source'
    mim = files(source, 'configs') | files(source, 'tools') | {'model-index.yml'}
    assert names == files(source, 'afan_mm') | {f'afan_mm/.mim/{name}' for name in mim}
    assert {'afan_mm/py.typed', 'afan_mm/.mim/tools/dist_train.sh'} <= names


def test_wheel_states_licence_command_and_no_dependency_but_extras(wheel):
    archive = zipfile.ZipFile(str(wheel))
    info = next(n for n in archive.namelist() if n.endswith('METADATA')).rsplit('/', 1)[0]
    metadata = archive.read(f'{info}/METADATA').decode()
    needed = [line for line in metadata.splitlines() if line.startswith('Requires-Dist')]
    assert needed and all('extra ==' in line for line in needed)
    assert 'Requires-Python: >=3.8' in metadata
    assert any(name.startswith(info) and name.endswith('LICENSE') for name in archive.namelist())
    assert 'afan = afan_mm.cli.main:main' in archive.read(f'{info}/entry_points.txt').decode()


def test_installed_command_converts_from_any_folder(wheel, tmp_path):
    """Nothing of the source tree is on the path: command and presets are the installed ones."""
    site = tmp_path / 'site'
    options = ('--no-deps', '--no-index', '--quiet', '--target', site)
    run('-m', 'pip', 'install', *options, wheel, cwd=tmp_path)
    config = 'mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py'
    run('-m', 'afan_mm', 'convert', config, cwd=tmp_path, python_path=site)
    written = (tmp_path / 'afan_fcn_r50-d8_4xb4-20k_voc12aug-512x512.py').read_text()
    assert "base='FCNHead'" in written
    where = 'import afan_mm, sys; sys.stdout.write(afan_mm.__file__)'
    assert Path(run('-c', where, cwd=tmp_path, python_path=site)).parent == site / 'afan_mm'


def test_model_index_names_files_and_configs_that_exist():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert sorted(index['Import']) == sorted(
        path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs').glob('*/metafile.yml')
    )
    for name in index['Import']:
        for model in yaml.safe_load((ROOT / name).read_text())['Models']:
            assert (ROOT / model['Config']).is_file()
