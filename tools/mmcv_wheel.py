"""Where the wheel of mmcv comes from that tools/setup_env.py installs: the user's cache folder, so
that a second clone needs no compiler, or tools/build_mmcv.py. Standard library only.

As a command it installs that wheel, for another set of packages, into the environment of the Python
that runs it, which must have torch: python tools/mmcv_wheel.py REQUIREMENTS
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from build_mmcv import FLAGS, GLUE, SUFFIX, Build, BuildError, SourceError, find_wheel
from probe_env import describe_torch

# What the compiler's output depends on besides.
COMPILER_VARIABLES = ('CC', 'CXX', 'CPPFLAGS', 'CFLAGS', 'CXXFLAGS', 'LDFLAGS')
# mmcv's setup.py builds for another device than the CPU where one of these is '1', or where torch
# finds such a device.
DEVICE_VARIABLES = ('MMCV_WITH_DIOPI', 'FORCE_CUDA', 'FORCE_MLU', 'FORCE_MPS', 'FORCE_NPU')


def find_device(facts, variables):
    """That device, '' if there is none. `facts`: what tools/probe_env.py says of torch."""
    forced = [f'{name}=1' for name in DEVICE_VARIABLES if variables.get(name) == '1']
    return ', '.join([*forced, *facts['devices']])


def version_of(text):
    """(2, 14) of 2.14.1+cu130."""
    return tuple(map(int, re.findall(r'\d+', text)[:2]))


class Pin(NamedTuple):
    """The source package of mmcv: the name of the project that publishes it, version and hash."""

    project: str
    version: str
    digest: str


PIN = re.compile(r'^((?:\w+-)?mmcv)==(\S+)\s+# sha256:([0-9a-f]{64})$', re.MULTILINE)


def read_pin(requirements):
    """The source package that the text of a requirements file names."""
    found = PIN.search(requirements)
    if found is None:
        raise SourceError(
            'requirements.txt: mmcv needs a line "mmcv==VERSION  # sha256:HASH", with the hash of '
            'its source package'
        )
    return Pin(*found.groups())


def choose_cache(facts, pin, variables):
    """The folder for wheels that would come out the same as one built here and now."""
    base = variables.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    settings = [
        FLAGS,
        GLUE,
        SUFFIX,
        pin.version,
        pin.digest,
        *(variables.get(name, '') for name in COMPILER_VARIABLES),
    ]
    digest = hashlib.sha256('\n'.join(settings).encode()).hexdigest()[:12]
    parts = [
        f'{pin.project}-{pin.version}',
        f'torch-{facts["torch"]}',
        facts['python'],
        facts['platform'],
        digest,
    ]
    return Path(base, 'afan_mm', 'wheels', re.sub(r'[^\w.+-]', '_', '_'.join(parts)))


class WheelSource:
    """Gives the wheel for one environment: from the cache, else from a united build, kept there.

    ``get`` answers None where neither is to be had: mmcv's setup.py would build for another device
    than the CPU, or a united build did not give a wheel that works.
    """

    def __init__(self, python, variables, facts, requirements):
        self.python, self.variables = python, variables
        self.pin = read_pin(requirements)
        self.cache = choose_cache(facts, self.pin, variables)
        self.cpp17 = version_of(facts['torch']) < (2, 14)  # whose headers want C++20
        self.build = None
        device = find_device(facts, variables)
        self.is_plain = bool(device)
        if device:
            print(f'mmcv: built its own way, for {device}; that may take long', flush=True)

    def start(self):
        """Have the compiler begin where it will be needed."""
        if not (self.is_plain or self.build or find_wheel(self.cache)):
            try:
                self.build = Build(self.python, self.variables, self.pin, self.cpp17)
            except OSError as error:  # no room, or the sources are not as they were
                self._give_up(error)

    def get(self):
        """The wheel, None if mmcv has to be built its own way."""
        self.start()
        if self.is_plain:
            return None
        if self.build is None:
            return find_wheel(self.cache)
        try:
            return self._keep(self.build.wait())
        except BuildError as error:
            self._give_up(error)
            return None

    def discard(self):
        """What ``get`` answered does not work. From the cache, it is worth building anew."""
        shutil.rmtree(str(self.cache), ignore_errors=True)
        self.is_plain = self.build is not None

    def _give_up(self, error):
        print(f'{error}\nmmcv: the quick build failed, see above', flush=True)
        self.is_plain = True

    def _keep(self, wheel):
        """Put it into the cache at one stroke; where that cannot be written, use it from here."""
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            partial = self.cache / f'{wheel.name}.{os.getpid()}'
            shutil.copy(str(wheel), str(partial))
            os.replace(str(partial), str(self.cache / wheel.name))
        except OSError as error:
            print(f'mmcv: the wheel could not be kept ({error})', flush=True)
            return wheel
        return self.cache / wheel.name


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('requirements', type=Path, help='with a line for mmcv as requirements.txt')
    text = parser.parse_args().requirements.read_text()
    source = WheelSource(sys.executable, dict(os.environ), describe_torch(), text)
    wheel = source.get()
    if wheel is None:
        sys.exit(f'{source.pin.project} {source.pin.version} has to be built its own way')
    pip = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--force-reinstall', str(wheel)]
    sys.exit(subprocess.run(pip).returncode)


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        print('\nmmcv_wheel.py: interrupted; the same command starts anew', file=sys.stderr)
        sys.exit(130)
    except SourceError as error:
        sys.exit(str(error))
