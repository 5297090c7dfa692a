"""One answer about a server's health: ready or not, with reasons or without, and what somebody has to see to."""

from typing import Any

import pytest

from app.queries.answers import Health, ProjectionStatus, Readiness, Status
from app.queries.health import LOW_DISK_BYTES, health, readiness, warnings

UNTOLD = "ask with the API token to be told why"


def status(error: str | None = None) -> Status:
    projections = {"rooms": ProjectionStatus(1, 5, 2, error), "counts": ProjectionStatus(1, 7, 0)}
    return Status(7, 7, 0, 0, "c", None, projections)


def health_of(found: Status | None, **more: Any) -> Health:
    facts: dict[str, Any] = {"stopped": {}, "waiting": None, "failure": None, "disk": (2**40, 2**41), "unsigned": False}
    return health(found, **(facts | more))


def test_a_server_is_ready_that_stores_callbacks_and_has_read_them() -> None:
    found = health_of(status())
    assert readiness(found, told=True) == Readiness(True, {"rooms": 2, "counts": 0}, {}, None, None)
    assert readiness(found, told=False) == readiness(found, told=True)
    assert warnings(found) == []


@pytest.mark.parametrize(
    ("found", "words", "untold"),
    [
        (health_of(status(), caught_up=False), (False, {}, None, None), (False, {}, None, None)),
        (health_of(status("e")), (False, {"rooms": "e"}, None, None), (False, {"rooms": UNTOLD}, None, None)),
        (health_of(status(), waiting="w"), (False, {}, "w", None), (False, {}, UNTOLD, None)),
        (health_of(status(), failure="f"), (False, {}, None, "f"), (False, {}, None, UNTOLD)),
    ],
)
def test_one_thing_wrong_is_not_ready_and_is_told_to_some_only(found: Health, words: Any, untold: Any) -> None:
    for told, expected in ((True, words), (False, untold)):
        answer = readiness(found, told=told)
        assert (answer.ready, answer.stopped, answer.waiting, answer.failure) == expected
        assert answer.lag == {"rooms": 2, "counts": 0}


def test_databases_that_cannot_be_read_are_not_ready_and_hide_the_rest() -> None:
    found = health_of(None, unreadable="u", stopped={"rooms": "e"}, waiting="w", failure="f")
    assert readiness(found, told=True) == Readiness(False, {}, {}, None, "u")
    assert readiness(found, told=False) == Readiness(False, {}, {}, None, UNTOLD)


def test_the_checkpoints_say_what_stopped_where_they_were_read() -> None:
    assert health_of(None, stopped={"rooms": "old"}).stopped == {"rooms": "old"}
    assert health_of(status(), stopped={"rooms": "old"}).stopped == {}
    assert health_of(status("new"), stopped={"counts": "old"}).stopped == {"rooms": "new"}


def test_what_an_operator_has_to_act_on_is_said_in_sentences() -> None:
    full = health_of(None, disk=(LOW_DISK_BYTES - 1, 2**41), stopped={"rooms": "e"}, waiting="w", unsigned=True)
    assert [text.partition(":")[0] for text in warnings(full)] == [
        "The disk is nearly full",
        "The pages are out of date because the projections are waiting",
        "The projection rooms has stopped",
        "Callbacks are not signed",
    ]
    assert warnings(health_of(None, disk=(LOW_DISK_BYTES, 2**41))) == []
    # What the disk does is said once.
    assert warnings(health_of(None, disk=(0, 0), failure="f")) == ["Callbacks are refused: f"]
