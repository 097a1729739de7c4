"""``fork_server.py SOCKET PYTHON``: fork for each command that fork_client.py asks for, until
standard input ends. PYTHON is what a command finds as ``sys.executable``.
"""

import array
import contextlib
import gc
import importlib
import os
import pickle
import runpy
import select
import signal
import socket
import sys
import threading
import warnings

REAL = sys.executable
# what afan_mm imports, and what costs most of that which the hosts import
PRELOADED = (
    'mmengine.runner',
    'mmcv.ops',
    'torchvision',
    'timm',
    'matplotlib.pyplot',
    'scipy.optimize',
    'sklearn.gaussian_process',
    'sklearn.mixture',
    'imagecorruptions',
    'ftfy',
)


def main(address, program):
    """Serve; and in the process of a command, run it."""
    path, connection = sys.path[1:], connect(address)
    with connection:
        arguments, files = receive(connection)
        command = os.fork()
        if command:
            handle(connection, command)
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.executable = program
    execute(arguments, path)


def connect(address):
    """Wait for commands; returns the connection of one, in a fork for it."""
    ready = False
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print('listening', flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if not ready:
                preload()
                ready = True
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return connection
            connection.close()
    os._exit(0)


def preload():
    from fast_configs import remember_configs

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for name in PRELOADED:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    remember_configs()
    assert len(os.listdir('/proc/self/task')) == 1, 'threads do not survive a fork'
    gc.freeze()


def receive(connection):
    """The arguments of a command and its standard files; enters its folder and environment."""
    files = array.array('i')
    length, received, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * files.itemsize))
    files.frombytes(received[0][2])
    with connection.makefile('rb') as request:
        arguments, folder, variables = pickle.loads(request.read(int.from_bytes(length, 'big')))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    return arguments, files


def handle(connection, command):
    """Pass signals on to the process, kill it when its caller is gone, and say how it ended."""

    def forward():
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            while True:
                number = connection.recv(1)
                if not number:
                    return os.killpg(command, signal.SIGKILL)
                os.kill(command, number[0])

    with contextlib.suppress(OSError):  # the process has done it already, and may have ended
        os.setpgid(command, command)
    threading.Thread(target=forward, daemon=True).start()
    _, status = os.waitpid(command, 0)
    with contextlib.suppress(OSError):
        connection.sendall(b'%d' % status)
    os._exit(0)


def execute(arguments, path):
    """What ``python`` does with a script, ``-m`` and ``-c``; the real one does the rest."""
    import numpy

    numpy.random.seed()  # forks would draw the same
    rest = list(arguments)
    while rest and (rest[0] == '-u' or rest[:2] == ['-W', 'ignore']):
        if rest.pop(0) == '-u':
            sys.stdout.reconfigure(line_buffering=True)
        else:
            warnings.simplefilter(rest[0])
            sys.warnoptions.append(rest.pop(0))
    kind = rest[0] if rest[:1] in (['-m'], ['-c']) else 'script'
    if kind == 'script' and (not rest or rest[0].startswith('-')):
        os.execv(REAL, [REAL, *arguments])
    beside = os.path.dirname(os.path.realpath(rest[0]))
    folder = {'-m': os.getcwd(), '-c': '', 'script': beside}[kind]
    own = os.environ.get('PYTHONPATH')
    sys.path[:] = [folder, *(own.split(os.pathsep) if own else ()), *path]
    importlib.invalidate_caches()
    sys.argv[:] = rest[kind == '-m' :]
    if kind == '-m':
        runpy.run_module(rest[1], run_name='__main__', alter_sys=True)
    elif kind == '-c':
        sys.argv[1:] = rest[2:]
        exec(rest[1], sys.modules['__main__'].__dict__)
    else:
        runpy.run_path(rest[0], run_name='__main__')


if __name__ == '__main__':
    main(*sys.argv[1:])
