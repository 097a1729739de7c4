"""The error of the user's, not of the program's."""

import linecache
import os
import traceback

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
    if not isinstance(error, (ValueError, TypeError, RuntimeError)) or not error.__traceback__:
        return False
    *_, (frame, number) = traceback.walk_tb(error.__traceback__)
    package = frame.f_globals.get('__name__', '').partition('.')[0]
    line = linecache.getline(frame.f_code.co_filename, number)
    return package == PACKAGE and line.lstrip().startswith('raise ')


def where_raised(error: BaseException) -> str:
    """The file and line where an exception was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f'{os.path.relpath(frames[-1].filename)}:{frames[-1].lineno}' if frames else ''
