"""The one way to wait for something: ask until it is so."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(ask: Callable[[], T | None], what: str = "", *, timeout_s: float = 30.0, every_s: float = 0.02) -> T:
    """Ask until the answer is true, and return that answer; AssertionError, which names `what`, after the timeout.

    Among asyncio tasks: `await asyncio.to_thread(wait_until, ask)`.
    """
    deadline_s = time.monotonic() + timeout_s
    while not (answer := ask()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what or ask}"
        time.sleep(every_s)
    return answer
