"""Shows how far long work is: a bar with rate and time left on a terminal, plain lines elsewhere. Always on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from app.infra.progress import Progress

_LINE_EVERY_S = 2.0


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks at a stream. Rich would also believe FORCE_COLOR, which is no promise of a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


class _Rate(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


@contextmanager
def show_progress(what: str) -> Iterator[Progress]:
    """Give a function to be told (done, total); a total of 0 is one that is not known.

    An error ends the bar before it is reported, so it is never hidden.
    """
    if is_terminal(sys.stderr):
        console = Console(stderr=True)
        with Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
        ) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total or None)
        return
    yield _Lines(what)


class _Lines:
    """A line every two seconds, and one at the end of work that took longer than that."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._begin = self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said < _LINE_EVERY_S:
            return
        self._said = now
        rate = done / (now - self._begin)
        of = f" of {total:,}" if total else ""
        left = f", {max(0, total - done) / rate:.0f} s left" if rate and total else ""
        print(f"{self._what}: {done:,}{of}, {rate:,.0f}/s{left}", file=sys.stderr, flush=True)
