"""A ``python`` that starts in a tenth of the time, for the commands that the tests run.

Most of a short command's time goes to importing torch and what the hosts import. A server imports
that once, and forks a process for each command: one of its own, in the caller's folder, with its
environment, files and exit status; signals reach it, and it ends where its caller is killed. Its
number is not the one that the caller knows, which submitit's jobs do not bear. This package, mmdet,
mmseg, mmpretrain and the script are imported by that process itself.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

VARIABLE = 'AFAN_TESTS_PYTHON'
HERE = Path(__file__).parent


def python():
    """The program that runs a command as ``sys.executable`` does."""
    return os.environ.get(VARIABLE, sys.executable)


class FastPython:
    """What :func:`python` returns here and in the processes started from here, until it is stopped.

    Linux only, as others do not fork reliably, and without a GPU, which does not survive a fork:
    elsewhere :func:`python` is the real one.
    """

    def __init__(self):
        if sys.platform != 'linux' or torch.cuda.is_available():
            self.stop = lambda: None
            return
        self.folder = tempfile.mkdtemp(prefix='python_')
        address, program = os.path.join(self.folder, 'socket'), os.path.join(self.folder, 'python')
        command = [sys.executable, '-I', '-S', str(HERE / 'fork_client.py'), address]
        with open(program, 'w') as file:
            file.write(f'#!/bin/sh\nexec {" ".join(map(shlex.quote, command))} "$@"\n')
        os.chmod(program, 0o755)
        variables = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
        self.server = subprocess.Popen(
            [sys.executable, str(HERE / 'fork_server.py'), address, program],
            env=dict(variables, OMP_NUM_THREADS='1'),  # other threads do not survive a fork
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the commands by their callers
        )
        self.server.stdout.readline()  # it listens
        os.environ[VARIABLE] = program

    def stop(self):
        del os.environ[VARIABLE]
        with self.server:  # its standard input ends, and so does it
            shutil.rmtree(self.folder)
