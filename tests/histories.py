"""Histories that nobody thought of: callbacks of two rooms, cut into batches, for the properties."""

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st
from kit.callbacks import T0, UPDATE

import app.projector.fold
import app.projector.remembered

FOREVER_MS = T0 + 10**6
SPAN_MS = 7  # so short that events meet within a millisecond
ROOMS = ("a", "b?#% ü")


class Delivery(NamedTuple):
    """A body, when it arrives after the one before, and whether the projections catch up behind it.

    `elsewhere`: another process does, which remembers other things about the rooms.
    """

    body: bytes
    wait_ms: int
    batch: int | None
    elsewhere: bool


VALUES: list[Any] = [0, 1, True, False, 1.0, "1", None, [1], {"x": 1.0}, "", -0.0, 10**20]


@st.composite
def deliveries(draw: st.DrawFn) -> list[Delivery]:
    """Up to 24 callbacks of two rooms in no order, some of them twice, some siblings, cut into batches."""
    made: list[Delivery] = []
    for _ in range(draw(st.integers(1, 24))):
        if made and draw(st.integers(0, 7)) == 0:
            body = draw(st.sampled_from(made)).body
        else:
            info: dict[str, Any] = {"RoomId": draw(st.sampled_from(ROOMS))}
            if draw(st.booleans()):
                info["IsPublicVisible"] = draw(st.sampled_from([True, False, True, False, "false", None]))
            for field in draw(st.sets(st.sampled_from(["A", "B", "é"]), max_size=2)):
                info[field] = draw(st.sampled_from(VALUES))
            content = {
                "CallbackCommand": UPDATE if draw(st.integers(0, 9)) else "Live.CallbackAfterDestroyRoom",
                "Operator_Account": draw(st.sampled_from(["bob", 2**60 + 1, None])),
                "RoomInfo": info,
                "EventTime": T0 + draw(st.integers(0, SPAN_MS)),
            }
            if draw(st.integers(0, 4)) == 0:
                content["EventTime"] = str(content["EventTime"])
            if content["CallbackCommand"] != UPDATE and draw(st.booleans()):
                del content["RoomInfo"]
            body = json.dumps(content).encode()
        batch = draw(st.sampled_from([None, None, 1, 2, 5]))
        made.append(Delivery(body, draw(st.integers(0, 3)), batch, draw(st.integers(0, 3)) == 0))
    return made


def make_steps_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.projector.fold, "STEP", 3)
    monkeypatch.setattr(app.projector.remembered, "MAX_ROOMS", 1)  # of the two rooms, one is remembered
