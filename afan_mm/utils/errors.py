"""The error of the user's, not of the program's."""


class UsageError(ValueError):
    """Something the user gave cannot be used; the message is all that they need to see."""


def describe(error: BaseException) -> str:
    """An exception in one line: its type, and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__
