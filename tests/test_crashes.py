"""A process that dies between any two statements of its work leaves nothing that the next one cannot go on from."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from conftest import HISTORIES, T0
from histories import FOREVER_MS, Delivery, deliveries, make_steps_small
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.crash import FailingConnection, PowerGone

from app.log import schema
from app.log.records import Arrival
from app.log.store import EventStore
from app.ops.verify import verify
from app.projector.catch_up import catch_up
from app.projector.read_models import ReadModels, connect_read_models
from app.projector.rebuild import rebuild
from app.tencent.body import decode
from projections import ALL


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    make_steps_small(monkeypatch)


STATEMENTS = {"append": 20, "catch_up": 200, "rebuild": 300}
"""About how many statements such work takes: a crash is to come before one of them, and only now and then after all."""


CRASHES = (
    deliveries(),
    st.sampled_from(list(STATEMENTS)).flatmap(lambda work: st.tuples(st.just(work), st.integers(0, STATEMENTS[work]))),
    st.integers(1, 6),
)


@settings(max_examples=max(20, HISTORIES // 4))
@given(*CRASHES)
def test_a_crash_between_any_two_statements_then_catching_up_equals_a_rebuild(
    history: list[Delivery], crash: tuple[str, int], batch: int
) -> None:
    work, statements = crash
    with TemporaryDirectory() as folder:
        log_path, models_path = Path(folder, "events.db"), Path(folder, "read_models.db")
        arrivals = [Arrival(decode(it.body, FOREVER_MS), T0 + n) for n, it in enumerate(history)]
        half = len(arrivals) // 2

        log = EventStore(schema.open_log(log_path))
        models = ReadModels(connect_read_models(models_path), ALL)
        models.create()
        log.append(arrivals[:half])
        catch_up(log, models, batch)
        before = {name: models.fingerprint(name) for name in ALL}
        appended = log.head().position
        dying_log: Any = FailingConnection(log.conn, statements if work == "append" else 10**9)
        dying_models: Any = FailingConnection(models.conn, statements if work != "append" else 10**9)
        frail_log, frail = EventStore(dying_log), ReadModels(dying_models, ALL)
        died = True
        try:
            if work == "rebuild":
                rebuild(frail_log, frail)
            frail_log.append(arrivals[half:])
            while catch_up(frail_log, frail, batch).more:
                pass
            died = False
        except PowerGone:
            pass
        log.close()
        models.close()

        log = EventStore(schema.open_log(log_path))
        models = ReadModels(connect_read_models(models_path), ALL)
        models.create()
        whole = {arrival.callback.event_id for arrival in arrivals}
        if died and work == "append":
            assert log.head().position in (appended, len(whole)), "half a batch was stored"
        if died and work == "rebuild" and log.head().position == appended:
            assert {name: models.fingerprint(name) for name in ALL} == before, "a dead rebuild changed what readers see"
        log.append(arrivals)  # the sender tries again
        assert log.head().position == len(whole)
        while catch_up(log, models, batch).more:
            pass
        caught_up = {name: models.fingerprint(name) for name in ALL}
        assert verify(log, models) is None
        rebuild(log, models)
        assert {name: models.fingerprint(name) for name in ALL} == caught_up
        log.close()
        models.close()
