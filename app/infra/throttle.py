"""Log lines that repeat: a full disk or a wrong token must not fill another disk with them."""

import time


class Throttle:
    """Lets one line of a kind through every ten seconds. For one thread; the kinds are few."""

    def __init__(self, interval_s: float = 10.0) -> None:
        self._interval_s = interval_s
        self._due_at_s: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def due(self, kind: str = "") -> int:
        """Count an occurrence; return how many there were since the last line of its kind, 0 while no line is due."""
        now_s = time.monotonic()
        count = self._counts.pop(kind, 0) + 1
        if now_s < self._due_at_s.get(kind, now_s):
            self._counts[kind] = count
            return 0
        self._due_at_s[kind] = now_s + self._interval_s
        return count
