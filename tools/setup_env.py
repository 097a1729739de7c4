"""Create or repair .venv with the pinned packages of requirements.txt: python tools/setup_env.py

mmcv comes as source and compiles its operators only where torch is already installed and pip's
build isolation is off; pip also caches a wheel that was built without them, or for another torch.
So the packages go in one part at a time, each part is probed before and after, and a part whose
probe passes is left alone. mmcv itself is compiled by tools/build_mmcv.py while all other packages
are installed, where that can be. What was interrupted goes on. Standard library only.
"""

import argparse
import signal
import subprocess
import sys
import time

from build_mmcv import SourceError
from mmcv_wheel import WheelSource
from probe_env import PARTS, ROOT, select_requirements
from virtual_env import Environment, SetupError

OLDEST_PYTHON = (3, 10)  # the plugin runs on 3.8; the pinned torch does not
FORCE = ['--force-reinstall', '--no-deps']
# over what an interrupted pip left, which it may not be able to remove
IGNORE = ['--ignore-installed', '--no-deps', '--no-build-isolation']


def choose_arguments(part, again):
    """pip's arguments for one part. `again`: the plain way did not give a part that works, so leave
    nothing to reuse.
    """
    lines = select_requirements(part) if part in PARTS else []
    force = FORCE if again else []
    if part == 'package':
        return ['-e', '.', '--no-deps', '--no-build-isolation', *force]
    if part == 'mmcv':
        return [*lines, '--no-build-isolation', *(['--no-cache-dir'] if again else []), *force]
    if part == 'opencv' and again:
        # A plain server lacks libGL, which opencv-python loads. The headless twin has the same
        # `cv2` without it. Laid over opencv-python, not put in its place: pip would bring the other
        # back for mmcv's sake.
        return [line.replace('opencv-python', 'opencv-python-headless') for line in lines] + force
    if part in ('libraries', 'hosts') and not again:
        # all pins as limits, so that no earlier one is moved
        return [*lines, '-c', 'requirements.txt', '--no-build-isolation']
    return [*lines, *force]


def install_part(env, part, again):
    if part == 'mmcv':
        print('mmcv: compiling its operators its own way, a quarter of an hour on two cores')
    env.install(choose_arguments(part, again), **({'MMCV_WITH_OPS': '1'} if part == 'mmcv' else {}))


def ensure(env, part):
    """Install one part if its probe fails, the hard way if the plain one did not help."""
    for again in (False, True):
        complaint = env.probe(part)[part]
        if not complaint:
            return
        print(f'{part}: {complaint}', flush=True)
        install_part(env, part, again)
    complaint = env.probe(part)[part]
    if complaint:
        raise SetupError(f'{part} was installed, yet {complaint}')


def install_missing(env, *parts):
    """Install those of these parts that are not there at all, quickly where that can be."""
    complaints = env.probe(*parts)
    missing = [part for part in parts if complaints[part].endswith(' is not installed')]
    lines = [line for part in missing for line in select_requirements(part)]
    if lines:
        print(f'not installed: {", ".join(missing)}', flush=True)
        # all pins as limits, so that no earlier one is moved
        arguments = [*lines, '-c', 'requirements.txt', '--no-build-isolation']
        if not env.install_quickly(arguments):
            print('uv could not install them; pip does, which takes longer', flush=True)
            env.install(arguments)


def start_mmcv(env):
    """Have the compiler begin if there is no mmcv of the right version yet; the source of its
    wheel.
    """
    source = WheelSource(
        env.python,
        env.variables,
        env.describe_torch(),
        (ROOT / 'requirements.txt').read_text(),
    )
    # any other complaint may be due to another package, which is mended first
    if env.probe('mmcv')['mmcv'].startswith('mmcv is '):
        source.start()
    return source


def ensure_mmcv(env, source):
    """Install its wheel; while that does not work another one, and at last what its own build
    gives.
    """
    for _ in ('from the cache', 'built', 'its own way', 'a last look'):
        damaged = 'mmcv==' in env.probe('files')['files']
        complaint = env.probe('mmcv')['mmcv'] or ('files of it are missing' if damaged else '')
        if not complaint:
            return
        print(f'mmcv: {complaint}', flush=True)
        wheel = source.get()
        if wheel is None:
            if damaged:
                env.install(['mmcv', *IGNORE, '-c', 'requirements.txt'], MMCV_WITH_OPS='1')
            return ensure(env, 'mmcv')
        try:
            # without what mmcv depends on: mmengine, installed before, depends on all of it
            env.install([str(wheel), *(IGNORE if damaged else FORCE)])
            works = not env.probe('mmcv')['mmcv']
        except SetupError:
            works = False
        if not works:
            source.discard()
    raise SetupError(f'mmcv was installed, yet {complaint}')


def repair_files(env):
    """Put back what an interrupted pip left incomplete. It may be past uninstalling, so lay the
    same version over it.
    """
    damaged = env.probe('files')['files'].split()
    ours = [name for name in damaged if name.startswith(('afan_mm==', 'afan-mm=='))]
    # mmcv is mended in its turn: it may have to be compiled
    rest = [name for name in damaged if name not in ours and not name.startswith('mmcv==')]
    if rest:
        env.install([*rest, *IGNORE])
    if ours:
        install_part(env, 'package', again=True)


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError(
            'Python {}.{} or newer is needed, this is {}; '.format(
                *OLDEST_PYTHON, sys.version.split()[0]
            )
            + 'make PYTHON=... setup chooses another'
        )
    started = time.monotonic()
    env = Environment(ROOT / '.venv')
    if not env.is_usable():
        print(f'creating {env.folder.name}', flush=True)
        env.create()
    elif not any(env.probe().values()):
        print(f'{env.folder.name} is ready')
        return
    repair_files(env)
    install_missing(env, 'torch', 'build')
    ensure(env, 'torch')
    ensure(env, 'build')
    source = start_mmcv(env)
    # the hosts need mmcv when they are imported, not when they are installed
    install_missing(env, 'opencv', 'libraries', 'hosts')
    for part in ('opencv', 'libraries', 'package'):
        ensure(env, part)
    ensure_mmcv(env, source)
    ensure(env, 'hosts')
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    print(f'{env.folder.name} is ready, after {minutes} min {seconds} s')


if __name__ == '__main__':
    # end as after Ctrl-C, which stops the compiler
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('setup was terminated'))
    try:
        main()
    except KeyboardInterrupt:
        print('\nsetup_env.py: interrupted; the same command goes on', file=sys.stderr)
        sys.exit(130)
    except (SetupError, SourceError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f'setup failed: {error}')
