"""How far a long computation is."""

import sys
import time
from typing import Optional

from rich.progress import Progress as Bar

from ..utils.bar import progress_bar


class Progress:
    """A bar on a terminal; elsewhere a line on stderr every half a minute.

    Args:
        name: What is counted.
        total: How much there is to do; None if that is not known.
        done: How much of it an interrupted run has done. Defaults to 0.
        interval: Seconds between two lines. Defaults to 30.
    """

    def __init__(self, name: str, total: Optional[int], done: int = 0, interval: float = 30):
        self.name, self.total, self.done, self.interval = name, total, done, interval
        self._bar: Optional[Bar] = None

    def __enter__(self) -> 'Progress':
        self._last = time.monotonic()
        if sys.stderr.isatty():
            self._bar = progress_bar(transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.name, total=self.total, completed=self.done)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int = 1) -> None:
        """So much more is done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
        elif time.monotonic() - self._last > self.interval:
            self._last = time.monotonic()
            of = '' if self.total is None else f'/{self.total}'
            print(f'{self.name}: {self.done}{of}', file=sys.stderr, flush=True)
