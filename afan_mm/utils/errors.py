"""The error of the user's, not of the program's."""

import dis
import os
import traceback

RAISE = dis.opmap['RAISE_VARARGS']
PACKAGE = __name__.partition('.')[0]


class UsageError(ValueError):
    """Something the user gave cannot be used; the message is all that they need to see."""


def describe(error: BaseException) -> str:
    """An exception in one line: its type, and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__


def is_message(error: BaseException) -> bool:
    """Whether this package raised an exception on purpose, so that its message says what is wrong;
    any other that comes out of it is a bug.
    """
    last = error.__traceback__
    if last is None or not isinstance(error, (ValueError, TypeError, RuntimeError)):
        return False
    while last.tb_next is not None:
        last = last.tb_next
    module = last.tb_frame.f_globals.get('__name__', '')
    return (
        module.partition('.')[0] == PACKAGE and last.tb_frame.f_code.co_code[last.tb_lasti] == RAISE
    )


def place(error: BaseException) -> str:
    """The file and line where an exception was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f'{os.path.relpath(frames[-1].filename)}:{frames[-1].lineno}' if frames else ''
