"""The one scenario of a disk that fails: callbacks are taken; it breaks, and they are refused; it is mended, and they
are taken again, those that were refused too; in the end the log holds exactly what was answered OK."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from faults.batches import (
    Batches,
    assert_blocking_is_answered_at_once,
    metric,
    readiness,
    reads_of_rooms,
    wait_until_ready,
)
from faults.lib import Kept, Victim, assert_exact, kept

BATCH = 100


class DiskFault:
    """A disk breaks under a server and is mended, once or many times.

    `words`: readiness has one of them in what it says is wrong with the log.
    """

    def __init__(self, victim: Victim, *words: str, threads: int = 16) -> None:
        self.batches = Batches(victim, threads)
        self.times = 0
        self.refused = 0
        self.reads: Counter[int] = Counter()
        """The statuses of the questions that were asked while it was broken."""
        self.slowest_s = 0.0
        """The longest that it took until callbacks were taken again."""
        self._victim = victim
        self._words = words

    @contextmanager
    def broken(
        self,
        break_disk: Callable[[], object],
        mend: Callable[[], object],
        *,
        before_redelivery: Callable[[], object] = lambda: None,
        projected: bool = True,
        may_be_stored: bool = False,
    ) -> Iterator[None]:
        """Send, break, and after the block mend, wait until callbacks are taken, and send again what was refused.

        The block says what holds meanwhile. `projected`: the read models have read everything before it breaks;
        `may_be_stored`: a refused callback may turn up in the log.
        """
        victim, batches = self._victim, self.batches
        assert set(batches.send(BATCH)) == {200}
        if projected:
            assert set(reads_of_rooms(victim, batches)) == {200}
        break_disk()
        try:
            yield
            if not may_be_stored:
                found = kept(victim.data, batches.sent)
                assert (found.lost, found.twice, found.unknown) == (0, 0, 0), "a part of a refused batch was stored"
        finally:
            mend()
        self.slowest_s = max(self.slowest_s, wait_until_ready(victim, batches))
        assert metric(victim, "roomlapse_log_writable") == 1
        before_redelivery()
        assert set(batches.redeliver()) == {200}
        assert set(reads_of_rooms(victim, batches)) == {200}
        self.times += 1

    def assert_refuses(self) -> None:
        """Every callback of a batch gets 503, and the server says why; one that holds up a user gets OK at once."""
        answers = self.batches.send(BATCH)
        assert set(answers) == {503}
        self.refused += len(answers)
        self.assert_says_why()

    def assert_says_why(self) -> None:
        """Readiness has one of the words, the metric is 0, a callback's answer is FAIL; a blocking one gets OK."""
        status, failure = readiness(self._victim)
        assert status == 503
        assert any(word in failure for word in self._words), failure
        assert metric(self._victim, "roomlapse_log_writable") == 0
        status, answer = self._victim.post(b'{"CallbackCommand":"Live.Any"}')
        assert status == 503
        assert json.loads(answer)["ActionStatus"] == "FAIL"
        assert_blocking_is_answered_at_once(self._victim)

    def ask(self, *, may_be_unavailable: bool = False) -> None:
        """Ask while it is broken: whatever is answered is right. `may_be_unavailable`: 503 will do too."""
        reads = reads_of_rooms(self._victim, self.batches)
        assert may_be_unavailable or set(reads) == {200}
        self.reads += reads

    def end(self) -> Kept:
        """Stop the server: it ends well, and every callback is there exactly once, however often it was sent."""
        assert self._victim.stop() == 0
        found = assert_exact(self._victim.data, self.batches.sent)
        assert found.answered_ok == len(self.batches)
        return found
