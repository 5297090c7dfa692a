"""The OpenAPI schema against the server: whatever is asked, the answer is one that the schema tells of."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import schemathesis
from conftest import APP_ID, T0, Server, body_of
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 30

OPERATIONS = [
    "POST /callbacks",
    "GET /change-counts",
    "GET /events",
    "GET /events/{event_id}",
    "GET /healthz",
    "GET /metrics",
    "GET /readyz",
    "GET /rejected",
    "GET /rooms",
    "GET /rooms/{room_id}",
    "GET /rooms/{room_id}/change-counts",
    "GET /rooms/{room_id}/diff",
    "GET /rooms/{room_id}/history",
    "GET /rooms/{room_id}/visibility",
    "GET /status",
]
ENDLESS = "GET /events/stream"
_NOTHING_TO_GET_WRONG = {
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "GET /status",
    "GET /events/{event_id}",
}
POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


class Api(NamedTuple):
    """A server with something to tell, and its schema's operations by label."""

    server: Server
    operations: dict[str, Any]
    values: dict[str, list[Any]]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The values are those that the server knows something about: drawn at random nobody would hit them."""
    with Server(tmp_path_factory.mktemp("schema") / "data") as server:
        for number in range(12):
            room_id = ("plain", "odd ?#%", "房间")[number % 3]
            late = (-1) ** number * number * 1000
            body = body_of(
                room_id,
                T0 + late,
                operator=[None, 2**60, {"a": 1}, "bob"][number % 4],
                RoomName=f"n{number}",
                IsPublicVisible=number % 2 == 0,
                Anything=[1.5, None, {"deep": []}][number % 3],
            )
            more = {"OptPlatform": "Web", "ClientIP": "203.0.113.1"} if number % 3 else {}
            assert server.post(body, **more).status_code == 200
            assert server.post(b'{"CallbackCommand":"Other.%d"}' % number).status_code == 200
            assert server.post(b"\xff bad %d" % number).status_code == 400
        schema = schemathesis.openapi.from_url(f"{server.url}/schema")
        operations = {}
        for found in schema.get_all_operations():
            assert isinstance(found, Ok), found.err()
            operations[found.ok().label] = found.ok()
        events = server.get("/events")["events"]
        times = [str(T0), str(T0 - 11_001), str(T0 + 20_000), "2022-12-09T08:26:54.123Z"]
        cursors = [server.get(path, limit=1)["next_cursor"] for path in ("/rooms", "/rejected", "/change-counts")]
        values: dict[str, list[Any]] = {
            "room_id": ["plain", "odd ?#%", "房间"],
            "event_id": [event["event_id"] for event in events],
            "as_of": times,
            "known_at": [*times, str(events[5]["received_at_ms"])],
            "from": times,
            "to": times,
            "field": ["RoomName", "Anything", "none"],
            "q": ["o", "PLAIN", "N1"],
            "public": ["true", "false"],
            "limit": [1, 2, 500],
            "after": [0, 5, 10**6],
            "cursor": cursors,
            "SdkAppid": [APP_ID],
            "CallbackCommand": ["Live.CallbackAfterUpdateRoomInfo"],
            "contenttype": ["json"],
            "ClientIP": ["203.0.113.7"],
            "OptPlatform": ["iOS", "Web"],
            "Sign": ["0" * 64],
            "RequestTime": ["1670574414"],
        }
        yield Api(server, operations, values)


def test_the_schema_tells_of_every_route(api: Api) -> None:
    assert sorted(api.operations) == sorted([*OPERATIONS, ENDLESS])


@pytest.mark.parametrize(
    ("label", "mode"),
    [
        *[(label, POSITIVE) for label in OPERATIONS],
        *[(label, NEGATIVE) for label in OPERATIONS if label not in _NOTHING_TO_GET_WRONG],
    ],
)
def test_answers_are_what_the_schema_says(api: Api, label: str, mode: schemathesis.GenerationMode) -> None:
    operation = api.operations[label]
    statuses = set()

    @settings(settings.get_profile("fuzz"), max_examples=EXAMPLES)
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def ask(case: Any, data: st.DataObject) -> None:
        _use_known_values(case, api.values, data)
        response = case.call_and_validate(checks=CHECKS, timeout=20)
        statuses.add(response.status_code)

    ask()
    if mode == POSITIVE:
        wanted = 400 if label == "POST /callbacks" else 200  # a body made at random is no room update
        assert wanted in statuses


def _use_known_values(case: Any, values: dict[str, list[Any]], data: st.DataObject) -> None:
    """Put values that the server knows in the place of most of those made at random, and of some that are absent."""
    for name in list(case.path_parameters or {}):
        if data.draw(st.integers(0, 3)):
            case.path_parameters[name] = data.draw(st.sampled_from(values[name]))
    query = dict(case.query or {})
    names = {parameter.name for parameter in case.operation.query}
    for name in sorted(names):
        how = data.draw(st.sampled_from([*["known"] * 6, "absent", "absent", "as it is"]))
        if how == "known":
            query[name] = data.draw(st.sampled_from(values[name]))
        elif how == "absent":
            query.pop(name, None)
    case.query = query


def test_a_real_update_is_answered_as_the_schema_says(api: Api) -> None:
    for body, status_code in ((body_of("plain", T0), 200), (body_of("plain", 7), 400), (b"x" * 65_537, 413)):
        response = api.server.post(body)
        assert response.status_code == status_code
        api.operations["POST /callbacks"].Case(method="POST").validate_response(response, checks=CHECKS)
    response = api.server.client.post("/callbacks", content=body_of("plain", T0))
    assert response.status_code == 403
    api.operations["POST /callbacks"].Case(method="POST").validate_response(response, checks=CHECKS)


def test_errors_of_reading_are_answered_as_the_schema_says(api: Api) -> None:
    for label, path, status_code in (
        ("GET /rooms/{room_id}", "/rooms/nobody", 404),
        ("GET /rooms/{room_id}/history", "/rooms/nobody/history", 404),
        ("GET /rooms/{room_id}/diff", "/rooms/nobody/diff?from=0&to=1", 404),
        ("GET /rooms/{room_id}/change-counts", "/rooms/nobody/change-counts", 404),
        ("GET /rooms/{room_id}/visibility", "/rooms/nobody/visibility", 404),
        ("GET /events/{event_id}", "/events/none", 404),
        ("GET /rooms", "/rooms?limit=0", 400),
        ("GET /events/stream", "/events/stream?after=x", 400),
    ):
        response = api.server.client.get(path)
        assert response.status_code == status_code, path
        api.operations[label].Case(method="GET").validate_response(response, checks=CHECKS)


@pytest.mark.parametrize("label", [label for label in [*OPERATIONS, ENDLESS] if label.startswith("GET /")])
def test_the_schema_tells_of_the_errors_that_any_question_can_meet(api: Api, label: str) -> None:
    """What one run cannot bring about: a bearer that is missing, read models that cannot answer now."""
    told = set(api.operations[label].definition.raw["responses"])
    if label in {"GET /", "GET /healthz"}:
        assert "200" in told
    elif label == "GET /readyz":
        assert {"200", "503"} <= told
    elif label == "GET /metrics":
        assert {"200", "401"} <= told
    else:
        assert {"200", "401", "503"} <= told
