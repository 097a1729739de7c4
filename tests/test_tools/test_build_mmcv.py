"""The quick build of mmcv's operators: what it does to the sources, when it is used, what is kept
of it, and that the installed one lacks no operator.
"""

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import mmcv
import mmcv._ext
import pytest
import torch

from support.paths import ROOT
from support.tools import build_mmcv, mmcv_wheel, probe_env, setup_env, virtual_env

FACTS = dict(torch='9.9.0+cpu', python='cpython-311', platform='linux-x86_64-glibc2.36', devices=[])
HASH = '0' * 64
REQUIREMENTS = f'torch==9.9.0\nmmcv==2.1.0  # sha256:{HASH}\nmmcv-lite\n'


def write_wheel(folder, name='mmcv-2.1.0-py3-none-any.whl'):
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(str(folder / name), 'w') as wheel:
        wheel.writestr('mmcv/__init__.py', '')
    return folder / name


@pytest.fixture
def source(tmp_path):
    """A source of wheels for an interpreter that is never asked, with a cache folder of its own."""
    return mmcv_wheel.WheelSource('python', {'XDG_CACHE_HOME': str(tmp_path)}, FACTS, REQUIREMENTS)


class FakeBuild:
    """A build that is over at once: it raises, or gives a wheel."""

    def __init__(self, outcome):
        self.outcome, self.started = outcome, 0

    def __call__(self, python, variables, pin, cpp17):
        self.started += 1
        if isinstance(self.outcome, OSError):
            raise self.outcome
        return self

    def wait(self):
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


# the installed operators


def test_no_operator_is_missing():
    pytorch = Path(mmcv.__file__).parent / 'ops' / 'csrc' / 'pytorch'
    (bindings,) = pytorch.glob('*pybind.*')  # a header where it was united with others
    names = set(re.findall(r'm\.def\(\s*"(\w+)"', bindings.read_text()))
    assert len(names) > 100
    assert names - set(dir(mmcv._ext)) == set()


# uniting


@pytest.fixture
def united(tmp_path):
    """The four files that a small folder of sources becomes, each with what it includes of them."""
    files = [*build_mmcv.HEAVY, *build_mmcv.CLASHING, 'cpu/nms.cpp', 'cpu/pixel_group.cpp']
    files += ['nms.cpp', 'carafe.cpp', build_mmcv.WORKING, build_mmcv.BINDINGS]
    (tmp_path / 'cpu').mkdir()
    for name in [*files, 'spconv_utils.h']:
        (tmp_path / name).write_text(f'// {name}')
    build_mmcv.unite(tmp_path)
    return tmp_path, files


def read_includes(folder, name):
    return re.findall(r'^#include "(.*)"', (folder / name).read_text(), re.M)


def test_unite_leaves_nothing_out(united):
    folder, files = united
    compiled = sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*.cpp'))
    assert compiled == ['0_bindings.cpp', '1_cpu.cpp', '2_glue.cpp', '3_clashing.cpp']
    included = [each for name in compiled for each in read_includes(folder, name)]
    included.remove('pytorch_device_registry.hpp')
    assert sorted(included) == sorted(name.replace('.cpp', '.hpp') for name in files)
    assert all(
        (folder / name.replace('.cpp', '.hpp')).read_text() == f'// {name}' for name in files
    )
    assert read_includes(folder, '1_cpu.cpp') == [
        'contour_expand.hpp',
        'cpu/nms.hpp',
        'cpu/pixel_group.hpp',
    ]


def test_what_works_is_compiled_at_full_optimization(united):
    folder, _ = united
    before, glue = (folder / '0_bindings.cpp').read_text().split(build_mmcv.GLUE)
    assert 'sparse' in before and glue == '#include "pybind.hpp"\n'
    assert (folder / '2_glue.cpp').read_text() == (
        build_mmcv.GLUE + '#include "carafe.hpp"\n#include "nms.hpp"\n'
    )
    assert build_mmcv.GLUE not in (folder / '1_cpu.cpp').read_text()
    assert build_mmcv.GLUE not in (folder / '3_clashing.cpp').read_text()


def test_what_clashes_is_renamed_for_its_own_file(tmp_path):
    """The preprocessor itself on two files that define the same template."""
    for name in ('one', 'two'):
        (tmp_path / f'{name}.hpp').write_text('struct PreCalc {}; void add();\n')
    text = build_mmcv.include_apart('one.cpp') + build_mmcv.include_apart('two.cpp') + 'int add;\n'
    (tmp_path / 'all.cpp').write_text(text)
    compiler = sysconfig.get_config_var('CXX').split()[0]
    output = subprocess.run(
        [compiler, '-E', '-P', 'all.cpp'], cwd=str(tmp_path), stdout=subprocess.PIPE, check=True
    ).stdout.decode()
    assert output.splitlines() == [
        'struct one_PreCalc {}; void one_add();',
        'struct two_PreCalc {}; void two_add();',
        'int add;',
    ]


# the standard


def test_standard_is_left_to_torch(tmp_path):
    """mmcv's own lines: what is left is a list of the other options."""
    setup = tmp_path / 'setup.py'
    setup.write_text("""cuda = ''
a = ['-Wall', '-std=c++17']
b = [cuda, '-std=c++14'] if cuda else ['-std=c++14']
""")
    build_mmcv.leave_standard_to_torch(setup)
    found = {}
    exec(setup.read_text(), found)
    assert found['a'] == ['-Wall'] and found['b'] == []


@pytest.mark.parametrize(
    'torch, cpp17', [('2.0.1+cu117', True), ('2.13.0', True), ('2.14.1+cu130', False)]
)
def test_standard_is_mmcvs_own_where_torch_takes_it(torch, cpp17):
    facts = dict(FACTS, torch=torch)
    assert mmcv_wheel.WheelSource('python', {}, facts, REQUIREMENTS).cpp17 == cpp17


# the time left


def test_schedule():
    # one core: 4; the other: 1, 2 until 3, then 3 more until 6
    assert build_mmcv.schedule([4, 1, 2, 3], 2) == [1, 3, 4, 6]
    assert build_mmcv.schedule([4, 1, 2], 1) == [4, 5, 7]


def test_estimate_left():
    tasks = dict(jobs=2, seconds=[4, 1, 2, 3])  # ends at 1, 3, 4, 6
    assert build_mmcv.estimate_left(0, 0.5, **tasks) == 5.5
    assert build_mmcv.estimate_left(0, 100, **tasks) == 5  # no end is near before the first one
    assert build_mmcv.estimate_left(2, 6, **tasks) == 6  # half as fast: at 3 of 6
    assert build_mmcv.estimate_left(4, 12, **tasks) == 0


# when it is used


@pytest.mark.parametrize(
    'devices, variables, expected',
    [
        ([], {}, ''),
        ([], {'FORCE_CUDA': '0', 'MMCV_WITH_OPS': '1'}, ''),
        ([], {'FORCE_CUDA': '1'}, 'FORCE_CUDA=1'),
        ([], {'FORCE_NPU': '1', 'FORCE_MLU': '1'}, 'FORCE_MLU=1, FORCE_NPU=1'),
        (['CUDA'], {}, 'CUDA'),
    ],
)
def test_find_device(devices, variables, expected):
    assert mmcv_wheel.find_device(dict(FACTS, devices=devices), variables) == expected


def test_another_device_gets_mmcvs_own_build(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mmcv_wheel, 'Build', FakeBuild(AssertionError('not to be built')))
    variables = {'XDG_CACHE_HOME': str(tmp_path)}
    facts = dict(FACTS, devices=['CUDA'])
    source = mmcv_wheel.WheelSource('python', variables, facts, REQUIREMENTS)
    write_wheel(source.cache)
    assert source.get() is None
    assert 'for CUDA' in capsys.readouterr().out


def test_describe_torch_names_this_one():
    facts = probe_env.describe_torch()
    assert facts['torch'] == torch.__version__
    assert facts['devices'] == (['CUDA'] if torch.cuda.is_available() else [])


# the pin


def test_pin():
    assert mmcv_wheel.read_pin(REQUIREMENTS) == ('mmcv', '2.1.0', HASH)
    fork = f'mmcv-lite==2\na-mmcv==3.0.1  # sha256:{HASH}\n'
    assert mmcv_wheel.read_pin(fork) == ('a-mmcv', '3.0.1', HASH)
    pin = mmcv_wheel.read_pin((ROOT / 'requirements.txt').read_text())
    assert pin.version == mmcv.__version__ and re.fullmatch('[0-9a-f]{64}', pin.digest)


@pytest.mark.parametrize('text', ['', 'mmcv==2.1.0\n', 'mmcv>=2  # sha256:' + HASH])
def test_pin_without_a_hash_is_refused(text):
    with pytest.raises(build_mmcv.SourceError, match='requirements.txt: mmcv needs a line'):
        mmcv_wheel.read_pin(text)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A source package called mmcv that pip finds in place of the real one, and its hash. Its
    setup.py leaves a mark when it runs.
    """
    folder, mark = tmp_path / 'mmcv-2.1.0', tmp_path / 'mark'
    (folder / 'mmcv' / 'ops' / 'csrc' / 'pytorch' / 'cpu').mkdir(parents=True)
    (folder / 'mmcv' / 'ops' / 'csrc' / 'pytorch' / 'pybind.cpp').write_text('')
    (folder / 'PKG-INFO').write_text('Metadata-Version: 1.0\nName: mmcv\nVersion: 2.1.0\n')
    (folder / 'setup.py').write_text(
        f"import pathlib, sys, setuptools\npathlib.Path({str(mark)!r}).write_text('ran')\n"
        "if 'bdist_wheel' in sys.argv:\n"
        "    print('pybind.cpp:1:2: error: no such header', *range(50), sep='\\n')\n"
        "    sys.exit('ninja: build stopped')\n"
        "setuptools.setup(name='mmcv', version='2.1.0')\n"
    )
    archive = tmp_path / 'index' / 'mmcv-2.1.0.tar.gz'
    archive.parent.mkdir()
    with tarfile.open(str(archive), 'w:gz') as file:
        file.add(str(folder), arcname=folder.name)
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('PIP_FIND_LINKS', str(archive.parent))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return hashlib.sha256(archive.read_bytes()).hexdigest(), mark


def start(digest):
    text = f'mmcv==2.1.0  # sha256:{digest}'
    return mmcv_wheel.WheelSource(sys.executable, dict(os.environ), FACTS, text)


def test_another_source_package_is_refused_before_it_runs(package):
    _, mark = package
    with pytest.raises(build_mmcv.SourceError, match='not the one whose hash'):
        start(HASH).get()
    assert not mark.exists()


def test_failed_build_says_why_and_leaves_it_to_mmcvs_own(package, capfd):
    digest, mark = package
    source = start(digest)
    assert source.get() is None
    assert mark.exists()
    said = capfd.readouterr().out
    # what the compiler complained of, and what came last
    assert 'pybind.cpp:1:2: error: no such header\n2' in said and 'ninja: build stopped' in said
    assert 'quick build failed' in said
    assert source.get() is None  # and is not tried again


def test_sources_that_changed_leave_it_to_mmcvs_own(source, monkeypatch, capsys):
    monkeypatch.setattr(mmcv_wheel, 'Build', FakeBuild(FileNotFoundError('no pybind.cpp')))
    assert source.get() is None
    assert 'no pybind.cpp\nmmcv: the quick build failed' in capsys.readouterr().out


# the cache


def test_cache_folder_tells_builds_apart():
    pin, variables = mmcv_wheel.Pin('mmcv', '2.1.0', HASH), {'XDG_CACHE_HOME': '/cache'}
    first = mmcv_wheel.choose_cache(FACTS, pin, variables)
    assert first.parent == Path('/cache/afan_mm/wheels')
    assert first == mmcv_wheel.choose_cache(dict(FACTS), pin, dict(variables, LANG='C'))
    others = {
        mmcv_wheel.choose_cache(dict(FACTS, torch='9.9.0+cu130'), pin, variables),
        mmcv_wheel.choose_cache(dict(FACTS, python='cpython-312'), pin, variables),
        mmcv_wheel.choose_cache(dict(FACTS, platform='linux-aarch64'), pin, variables),
        mmcv_wheel.choose_cache(FACTS, pin._replace(version='2.1.1'), variables),
        mmcv_wheel.choose_cache(FACTS, pin._replace(digest='1' * 64), variables),
        mmcv_wheel.choose_cache(FACTS, pin._replace(project='a-mmcv'), variables),
        mmcv_wheel.choose_cache(FACTS, pin, dict(variables, CXX='clang++')),
        mmcv_wheel.choose_cache(FACTS, pin, dict(variables, CFLAGS='-march=native')),
    }
    assert len(others) == 8 and first not in others


def test_cache_folder_of_the_home(monkeypatch):
    monkeypatch.setenv('HOME', '/home/someone')
    folder = mmcv_wheel.choose_cache(FACTS, mmcv_wheel.Pin('mmcv', '2.1.0', HASH), {})
    assert folder.parent == Path('/home/someone/.cache/afan_mm/wheels')


def test_built_wheel_is_kept_and_used_again(source, tmp_path, monkeypatch):
    build = FakeBuild(write_wheel(tmp_path / 'elsewhere'))
    monkeypatch.setattr(mmcv_wheel, 'Build', build)
    kept = source.get()
    assert kept.parent == source.cache and [kept] == list(source.cache.iterdir())
    again = mmcv_wheel.WheelSource('python', source.variables, FACTS, REQUIREMENTS)
    assert again.get() == kept and build.started == 1


def test_cut_wheel_is_not_used(source, tmp_path, monkeypatch):
    kept = write_wheel(source.cache)
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    build = FakeBuild(write_wheel(tmp_path / 'elsewhere'))
    monkeypatch.setattr(mmcv_wheel, 'Build', build)
    assert source.get().read_bytes() == whole and build.started == 1


def test_cache_that_cannot_be_written(source, tmp_path, monkeypatch, capsys):
    built = write_wheel(tmp_path / 'elsewhere')
    monkeypatch.setattr(mmcv_wheel, 'Build', FakeBuild(built))
    (tmp_path / 'afan_mm').write_text('a file where the folder should be')
    assert source.get() == built
    assert 'could not be kept' in capsys.readouterr().out


# setup_env.py with it


class FakeEnvironment:
    """An environment in which `works` decides whether what was installed passes the probe."""

    def __init__(self, works, damaged='', is_sound=False):
        self.works, self.damaged, self.is_sound, self.installed = works, damaged, is_sound, []

    def probe(self, part):
        if part == 'files':
            return {'files': self.damaged}
        return {part: '' if self.is_sound else 'import fails'}

    def install(self, arguments, **variables):
        self.installed.append(arguments)
        self.is_sound, self.damaged = self.works(arguments), ''


def test_broken_cached_wheel_is_removed_and_built_anew(source, tmp_path, monkeypatch):
    broken = write_wheel(source.cache)
    built = write_wheel(tmp_path / 'elsewhere')
    built.write_bytes(built.read_bytes() + b'\0')
    new = built.read_bytes()
    monkeypatch.setattr(mmcv_wheel, 'Build', FakeBuild(built))
    env = FakeEnvironment(lambda arguments: Path(arguments[0]).read_bytes() == new)
    setup_env.ensure_mmcv(env, source)
    assert [arguments[0] for arguments in env.installed] == [str(broken)] * 2
    assert broken.read_bytes() == new


def test_mmcvs_own_build_comes_last(source, tmp_path, monkeypatch):
    monkeypatch.setattr(mmcv_wheel, 'Build', FakeBuild(write_wheel(tmp_path / 'elsewhere')))
    env = FakeEnvironment(lambda arguments: arguments[0] == 'mmcv==2.1.0')
    setup_env.ensure_mmcv(env, source)
    assert [Path(arguments[0]).suffix for arguments in env.installed] == ['.whl', '.0']
    assert not source.cache.exists()  # no one else gets a wheel that does not work


def test_damaged_mmcv_is_laid_over(source):
    wheel = write_wheel(source.cache)
    env = FakeEnvironment(lambda arguments: True, damaged='mmcv==2.1.0')
    setup_env.ensure_mmcv(env, source)
    assert env.installed == [[str(wheel), *setup_env.IGNORE]]


def test_sound_mmcv_is_left_alone(source):
    env = FakeEnvironment(lambda arguments: True, is_sound=True)
    setup_env.ensure_mmcv(env, source)
    assert env.installed == []


class BareEnvironment:
    """An environment that lacks what it is told to lack, and keeps what uv and pip were asked
    for.
    """

    def __init__(self, uv_works=True, **complaints):
        self.complaints, self.quickly, self.installed = complaints, [], []
        self.uv_works = uv_works

    def probe(self, *parts):
        return {part: self.complaints.get(part, '') for part in parts}

    def install_quickly(self, arguments):
        self.quickly.append(arguments)
        return self.uv_works

    def install(self, arguments):
        self.installed.append(arguments)


def test_what_is_missing_is_installed_by_one_call():
    env = BareEnvironment(libraries='mmengine is not installed', hosts='mmdet is not installed')
    setup_env.install_missing(env, 'opencv', 'libraries', 'hosts')
    assert env.installed == []
    (arguments,) = env.quickly
    assert {'mmengine==0.10.7', 'mmdet==3.3.0', 'mmpretrain==1.2.0'} < set(arguments)
    # mmcv is compiled meanwhile, and must not be built by pip
    assert not any(line.startswith(('mmcv', 'opencv', 'torch=')) for line in arguments)
    assert arguments[-3:] == ['-c', 'requirements.txt', '--no-build-isolation']


def test_pip_installs_what_uv_cannot():
    env = BareEnvironment(uv_works=False, hosts='mmdet is not installed')
    setup_env.install_missing(env, 'hosts')
    assert env.installed == env.quickly != []


def test_what_is_there_but_unsound_is_mended_in_its_turn():
    env = BareEnvironment(opencv='import cv2: ImportError: libGL', hosts='mmdet is 3.0, needed 3.3')
    setup_env.install_missing(env, 'opencv', 'libraries', 'hosts')
    assert env.installed == env.quickly == []


def test_pips_settings_are_said_to_uv():
    listing = """:env:.disable-pip-version-check='1'
:env:.timeout='60'
global.index-url='https://one.example/simple'
global.extra-index-url='\\nhttps://two.example/simple\\nhttps://three.example/a=b'
install.find-links='wheels more'
global.find-links='other'
global.timeout='180'
list.format='columns'
"""
    assert virtual_env.translate_pip_settings(listing) == {
        'UV_INDEX_STRATEGY': 'unsafe-best-match',
        'UV_DEFAULT_INDEX': 'https://one.example/simple',
        'UV_INDEX': 'https://two.example/simple https://three.example/a=b',
        'UV_FIND_LINKS': 'wheels,more',
        'UV_HTTP_TIMEOUT': '60',
    }


def test_a_setting_of_pip_that_uv_does_not_know_leaves_the_work_to_pip():
    assert virtual_env.translate_pip_settings("global.proxy='proxy.example:80'\n") is None
    assert virtual_env.translate_pip_settings('what pip says another time') is None


# one version of ruff


def test_hooks_and_requirements_name_one_ruff():
    (hook,) = re.findall(r'rev: v(\S+)', (ROOT / '.pre-commit-config.yaml').read_text())
    assert probe_env.read_requirements()['ruff'] == f'ruff=={hook}'
