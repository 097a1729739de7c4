"""Compile mmcv's operators for the CPU in one and a half minutes, not the quarter of an hour that
its own build takes.

Nearly all of that time goes into parsing torch's headers, once for each of 77 source files. In an
unpacked copy of the source package the files of a folder are therefore united: renamed, and
included by one new file. What is compiled stays the same. For tools/setup_env.py; standard library
only.
"""

import atexit
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import zipfile
from pathlib import Path

# As mmcv's own build on common systems, but without debug information, which is slow to write.
# -O2 makes RoIAlign and the deformable convolutions 7 to 17 % slower.
FLAGS = '-O3 -g0 -DNDEBUG -fwrapv'

# pybind.cpp instantiates a template for each of its functions; the other four define macros or
# templates that another file of their folder defines as well.
ALONE = (
    'pybind.cpp',
    'cpu/psamask.cpp',
    'cpu/roi_align.cpp',
    'cpu/roi_align_rotated.cpp',
    'cpu/rotated_feature_align.cpp',
)
# setuptools sorts the sources and ninja starts them in that order. The three that take long come
# first, so that no core idles at the end.
FIRST = '0_{}.cpp'
# What each source takes on one core of a common machine, in that order; only the ratios matter.
SECONDS = (43, 34, 39, 10, 11, 12, 11)


class BuildError(Exception):
    """The united build failed; the message is what the compiler said last."""


class SourceError(Exception):
    """There is nothing to build from that could be trusted."""


def find_wheel(folder):
    """The whole wheel in a folder, None if there is none."""
    for path in sorted(folder.glob('*mmcv-*.whl')):
        try:
            with zipfile.ZipFile(str(path)) as wheel:
                if wheel.testzip() is None:
                    return path
        except (OSError, zipfile.BadZipFile):
            continue
    return None


def unite(sources):
    """Have the files of mmcv's `csrc/pytorch` and of `cpu` in it compiled as few."""
    for folder in (sources, sources / 'cpu'):
        united = []
        for path in sorted(folder.glob('*.cpp')):
            if path.relative_to(sources).as_posix() not in ALONE:
                path.rename(path.with_suffix('.inc'))
                united.append(f'#include "{path.stem}.inc"\n')
        lines = ['#include <torch/extension.h>\n', *united]
        (folder / FIRST.format('united')).write_text(''.join(lines))
    (sources / 'pybind.cpp').rename(sources / FIRST.format('pybind'))


def schedule(seconds, jobs):
    """When the first, second, ... of these tasks is done if they start in order, `jobs` at once."""
    free, ends = [0] * jobs, []
    for task in seconds:
        core = free.index(min(free))
        free[core] += task
        ends.append(free[core])
    return sorted(ends)


def estimate_left(done, elapsed, jobs, seconds=SECONDS):
    """Seconds until all sources are compiled, `done` of them being so after `elapsed` seconds."""
    ends = schedule(seconds, jobs)
    if not done:  # how fast this machine is cannot be told yet
        return ends[-1] - min(elapsed, ends[0])
    reached = ends[min(done, len(ends)) - 1]
    return elapsed * (ends[-1] - reached) / reached


def count_cores():
    """Those that this process may use, where the system can tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


class Build:
    """A united build in a temporary folder. The compiler runs beside whatever the caller does."""

    def __init__(self, python, variables, pin):
        self.jobs = int(variables.get('MAX_JOBS') or count_cores())
        self.temporary = tempfile.TemporaryDirectory(prefix='afan_mm_mmcv_')
        self.folder = Path(self.temporary.name)
        self.wheels = self.folder / 'wheels'
        source = self._unpack([str(python), '-m', 'pip'], variables, pin)
        unite(source / 'mmcv' / 'ops' / 'csrc' / 'pytorch')
        print('mmcv: compiling its operators for the CPU', flush=True)
        self.started = time.monotonic()
        # setup.py itself, not pip: pip would run it three times, and each time it loads torch
        with (self.folder / 'log').open('wb') as log:
            self.process = subprocess.Popen(
                [str(python), 'setup.py', 'bdist_wheel', '--dist-dir', str(self.wheels)],
                cwd=str(source),
                env={
                    **variables,
                    'MMCV_WITH_OPS': '1',
                    'MAX_JOBS': str(self.jobs),
                    'CFLAGS': f'{FLAGS} {variables.get("CFLAGS", "")}'.strip(),
                    'PATH': os.pathsep.join([str(Path(python).parent), variables.get('PATH', '')]),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        atexit.register(self._stop)  # the caller may give up

    def _unpack(self, pip, variables, pin):
        """Download the source package and unpack it. pip looks at the hash before it runs a line of
        it.
        """
        line = self.folder / 'source.txt'
        line.write_text(f'{pin.project}=={pin.version} --hash=sha256:{pin.digest}\n')
        command = [*pip, 'download', '-q', '--no-deps', '--no-build-isolation']
        command += ['--no-binary', pin.project, '--dest', str(self.folder), '-r', str(line)]
        if subprocess.run(command, env=variables).returncode != 0:
            raise SourceError(
                f'the source package of {pin.project} {pin.version} could not be had, or is not '
                'the one whose hash the requirements state; see above'
            )
        (archive,) = self.folder.glob('*mmcv-*.tar.gz')
        shutil.unpack_archive(str(archive), str(self.folder))
        return self.folder / archive.name[: -len('.tar.gz')]

    def wait(self):
        """Say how far it is until it is done; the wheel."""
        said = None
        while self.process.poll() is None:
            time.sleep(0.5)
            done = self._count_compiled()
            if done != said:
                said = done
                left = estimate_left(done, time.monotonic() - self.started, self.jobs)
                print(
                    f'mmcv: {done} of {len(SECONDS)} files compiled, about {left:.0f} s left',
                    flush=True,
                )
        wheel = find_wheel(self.wheels)
        if self.process.returncode != 0 or wheel is None:
            raise BuildError('\n'.join(self._read_log().splitlines()[-30:]))
        return wheel

    def _stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait()

    def _count_compiled(self):
        """Ninja writes [3/7] when the third of seven is done."""
        return max(map(int, re.findall(r'^\s*\[(\d+)/\d+\] ', self._read_log(), re.M)), default=0)

    def _read_log(self):
        return (self.folder / 'log').read_text(errors='replace')
