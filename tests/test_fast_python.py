"""The ``python`` by which tests run commands does what the real one does."""

import os
import signal
import subprocess
import sys

import pytest

from support.fast_python import python

COMMANDS = dict(
    code=['-c', 'import sys; print(sys.argv, sys.stdin.read()); sys.exit(3)', '-m', 'more'],
    script=['folder/script.py', '--option'],
    module=['-u', '-m', 'module', '-c'],
    error=['-W', 'ignore', '-c', 'import warnings; warnings.warn("no"); 1 / 0'],
    message=['-c', 'raise SystemExit("message")'],
    killed=['-c', 'import os; os.kill(os.getpid(), 9)'],
    at_exit=['-c', 'import atexit; atexit.register(print, "end"); print("start")'],
    nothing_is_there=['-c', 'import sys; print([m for m in sys.modules if m.startswith("mmdet")])'],
    other_options=['-S', '-c', 'import sys; print(sys.flags.no_site)'],
)
SCRIPT = """
import os, sys
import beside
print(sys.argv, os.getcwd(), os.environ['GIVEN'], beside.__name__, __name__)
print(os.path.samefile(sys.path[0], {where}), file=sys.stderr)
"""


@pytest.mark.parametrize('command', COMMANDS)
def test_a_command_ends_as_with_the_real_one(command, tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'script.py').write_text(SCRIPT.format(where='os.path.dirname(__file__)'))
    (tmp_path / 'module.py').write_text(SCRIPT.format(where='os.getcwd()'))
    (tmp_path / 'lib').mkdir()
    (tmp_path / 'lib' / 'beside.py').write_text('')

    def run(program):
        process = subprocess.run(
            [program, *COMMANDS[command]],
            cwd=str(tmp_path),
            env=dict(os.environ, GIVEN='given', PYTHONPATH=str(tmp_path / 'lib')),
            input='input',
            capture_output=True,
            text=True,
        )
        return process.returncode, process.stdout, process.stderr.splitlines()[-1:]

    assert run(python()) == run(sys.executable)


@pytest.mark.parametrize('number', (signal.SIGTERM, signal.SIGINT, signal.SIGKILL))
def test_a_signal_reaches_the_command(number):
    """Also the one that nothing can catch: the command does not outlive its caller."""
    code = 'import time; print(1, flush=True); time.sleep(600)'
    process = subprocess.Popen(
        [python(), '-c', code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout.readline() == b'1\n'
    process.send_signal(number)
    assert process.wait(timeout=240) == -number
    assert process.stdout.read() == b''  # which ends when nobody is left to write
