"""What long work tells of itself."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Told now and then how many steps are done, and of how many (0: not known)."""


def no_progress(done: int, total: int) -> None:
    """Tell nobody."""
