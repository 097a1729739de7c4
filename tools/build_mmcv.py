"""Compile mmcv's operators for the CPU in a minute and a half, not the quarter of an hour that
its own build takes.

Nearly all of that time goes into parsing torch's headers, once for each of 77 source files. In an
unpacked copy of the source package the files are therefore united: renamed, and included by four
new ones, each of which reads no heavier header than its files do. What is compiled stays the same.
For tools/setup_env.py; standard library only.
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

# The files of mmcv's `csrc/pytorch` hand their arguments on, to Python or to a device, and need not
# be fast, but for one; what works is in the folder `cpu`.
GLUE = '#pragma GCC optimize("O1")\n'
BINDINGS, WORKING = 'pybind.cpp', 'contour_expand.cpp'
# These read headers as heavy as those of the bindings, and they share most of them.
HEAVY = ('cpu/sparse_indice.cpp', 'cpu/sparse_maxpool.cpp', 'cpu/sparse_reordering.cpp')

# Files that define templates of one name, and one with macros called as functions are, which comes
# last: no other may follow it.
CLASHING = (
    'cpu/roi_align.cpp',
    'cpu/roi_align_rotated.cpp',
    'cpu/rotated_feature_align.cpp',
    'cpu/psamask.cpp',
)
CLASHES = (
    'PreCalc',
    'add',
    'bilinear_interpolate',
    'bilinear_interpolate_gradient',
    'pre_calc_for_bilinear_interpolate',
)
# what they include; it must not be read under other names
HEADERS = '#include <ATen/TensorUtils.h>\n#include "pytorch_device_registry.hpp"\n'

# What united files are called: setuptools compiles no header, and packs it with the sources.
SUFFIX = '.hpp'

# The united files and what each takes on one core of a common machine; only the ratios matter.
# Setuptools sorts the sources and ninja starts them in that order: the long ones come first, so
# that no core idles at the end.
SECONDS = {'0_bindings.cpp': 70, '1_cpu.cpp': 31, '2_glue.cpp': 30, '3_clashing.cpp': 23}


class BuildError(Exception):
    """The united build failed; the message is what the compiler complained of, and said last."""


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
    """Have the files of mmcv's `csrc/pytorch` and of `cpu` in it compiled as four."""
    paths = [*sources.glob('*.cpp'), *sources.glob('cpu/*.cpp')]
    names = sorted(path.relative_to(sources).as_posix() for path in paths)
    rest = [name for name in names if name not in (BINDINGS, *HEAVY, *CLASHING)]
    glue = [name for name in rest if '/' not in name and name != WORKING]
    texts = (
        include(HEAVY) + GLUE + include([BINDINGS]),
        include(name for name in rest if name not in glue),
        GLUE + include(glue),
        HEADERS + ''.join(map(include_apart, CLASHING)),
    )
    for path in paths:
        path.rename(path.with_suffix(SUFFIX))
    for name, text in zip(SECONDS, texts):
        (sources / name).write_text(text)


def leave_standard_to_torch(setup):
    """Have mmcv's `setup.py` name no C++ standard; torch then adds its own."""
    setup.write_text(re.sub(r"'-std=c\+\+\d+'", '', setup.read_text()))


def include(names):
    return ''.join(f'#include "{name[: -len(".cpp")]}{SUFFIX}"\n' for name in names)


def include_apart(name):
    """Include one file with the names that clash made its own."""
    own = Path(name).stem
    renamed = ''.join(f'#define {each} {own}_{each}\n' for each in CLASHES)
    restored = ''.join(f'#undef {each}\n' for each in CLASHES)
    return renamed + include([name]) + restored


def schedule(seconds, jobs):
    """When the first, second, ... of these tasks is done if they start in order, `jobs` at once."""
    free, ends = [0] * jobs, []
    for task in seconds:
        core = free.index(min(free))
        free[core] += task
        ends.append(free[core])
    return sorted(ends)


def estimate_left(done, elapsed, jobs, seconds=None):
    """Seconds until all sources are compiled, `done` of them being so after `elapsed` seconds."""
    ends = schedule(seconds or SECONDS.values(), jobs)
    if not done:  # how fast this machine is cannot be told yet
        return ends[-1] - min(elapsed, ends[0])
    reached = ends[min(done, len(ends)) - 1]
    return elapsed * (ends[-1] - reached) / reached


def count_cores():
    """Those that this process may use, where the system can tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


class Build:
    """A united build in a temporary folder. The compiler runs beside whatever the caller does.

    With `cpp17` it reads the standard that mmcv names, whose headers compile a twelfth faster than
    those of the next.
    """

    def __init__(self, python, variables, pin, cpp17):
        self.jobs = int(variables.get('MAX_JOBS') or count_cores())
        self.temporary = tempfile.TemporaryDirectory(prefix='afan_mm_mmcv_')
        self.folder = Path(self.temporary.name)
        self.wheels = self.folder / 'wheels'
        source = self._unpack([str(python), '-m', 'pip'], variables, pin)
        unite(source / 'mmcv' / 'ops' / 'csrc' / 'pytorch')
        if not cpp17:
            leave_standard_to_torch(source / 'setup.py')
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
            lines = self._read_log().splitlines()
            errors = [line for line in lines if ' error: ' in line]
            raise BuildError('\n'.join([*errors[:10], *lines[-30:]]))
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
