"""``fork_client.py SOCKET ...``: ``python ...`` in a process of the server; ends as that does."""

import array
import os
import pickle
import signal
import socket
import sys

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(address, *arguments):
    request = pickle.dumps((arguments, os.getcwd(), dict(os.environ)))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        for number in FORWARDED:
            signal.signal(number, lambda number, frame: connection.sendall(bytes([number])))
        files = array.array('i', (0, 1, 2))
        length = len(request).to_bytes(8, 'big')
        connection.sendmsg([length], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        connection.sendall(request)
        status = int(connection.recv(8))
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) in FORWARDED:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


if __name__ == '__main__':
    main(*sys.argv[1:])
