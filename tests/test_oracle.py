"""Hand-computed cases that pin the oracle to the contract's laws."""

import json
from typing import Any

import pytest
from oracle import UPDATE, Oracle

T = 1670574414123
# sha256sum of the bodies that TIE holds; event order among them is D, B, C, A.
ID_A = "87e23f5f2eb3a6fecacbb856e01277c6e389977668655b5760c4c52327fc7c13"
ID_B = "1eed628cae4ca3f5f44566912dd723d4ea406ab6826a415f783d06276a5e0881"
ID_C = "3a1d6decb665f919f1642732d391d0050c2643ab4caa3dcd1ef0bebd5699f057"
ID_D = "16352486582709ae823a771404077b7ed17ff2c5372316e98b13c9113edee3b9"
TIE = {
    name: (
        '{"CallbackCommand":"Live.CallbackAfterUpdateRoomInfo","EventTime":1670574414123,'
        f'"RoomInfo":{{"IsPublicVisible":{public},"RoomId":"r","RoomName":"{name}"}}}}'
    ).encode()
    for name, public in [("a", "true"), ("b", "false"), ("c", "true"), ("d", "false")]
}


def update(room_id: str, at: int, info: str, operator: str | None = None) -> bytes:
    """A body whose RoomInfo is `info`, the inside of a JSON object, after RoomId."""
    who = "" if operator is None else f'"Operator_Account":{operator},'
    comma = "," if info else ""
    return (
        f'{{"CallbackCommand":"{UPDATE}",{who}"RoomInfo":{{"RoomId":{json.dumps(room_id)}{comma}{info}}},'
        f'"EventTime":{at}}}'
    ).encode()


def texts(value: Any) -> str:
    """JSON text, since Python says 1 == 1.0 == True."""
    return json.dumps(value, sort_keys=True)


def feed(*bodies: bytes) -> Oracle:
    """An oracle that received the bodies at 1, 2, 3 ..."""
    oracle = Oracle()
    for i, body in enumerate(bodies, start=1):
        assert oracle.receive(body, i)
    return oracle


def test_identity_is_of_the_canonical_json() -> None:
    oracle = Oracle()
    plain = f'{{"CallbackCommand":"{UPDATE}","EventTime":{T},"RoomInfo":{{"RoomId":"r","RoomName":"é房"}}}}'
    escaped = '{ "RoomInfo": {"RoomName": "\\u00e9\\u623f", "RoomId": "r"}, '
    escaped += f'"EventTime": {T}, "CallbackCommand": "{UPDATE}" }}'
    assert oracle.receive(escaped.encode(), 5)
    assert not oracle.receive(plain.encode(), 6, "10.0.0.1", "Web")
    assert [e.event_id for e in oracle.events] == ["9fe84df7d26faa7963d84fcf2dc9313df9884cc588d908a96c9dbe10dd971d68"]
    assert oracle.receive(plain.replace(str(T), f"{T}1").encode(), 7)


def test_received_at_never_decreases_and_duplicates_leave_no_trace() -> None:
    oracle = Oracle()
    assert oracle.receive(TIE["a"], 100)
    assert not oracle.receive(TIE["a"], 900)
    assert oracle.receive(TIE["b"], 50)
    assert oracle.receive(TIE["c"], 101)
    assert [(e.position, e.received_at_ms) for e in oracle.events] == [(1, 100), (2, 100), (3, 101)]


def test_event_order_breaks_ties_by_event_id() -> None:
    oracle = feed(TIE["a"], TIE["b"], TIE["c"], TIE["d"])
    room = oracle.room("r")
    assert room == {
        "room_id": "r",
        "room_info": {"IsPublicVisible": True, "RoomName": "a"},
        "fields": {
            "IsPublicVisible": {"set_at_ms": T, "event_id": ID_C, "operator": None},
            "RoomName": {"set_at_ms": T, "event_id": ID_A, "operator": None},
        },
        "event_id": ID_A,
        "event_time_ms": T,
        "events": 4,
        "as_of_ms": None,
        "known_at_ms": None,
    }
    history = oracle.history("r")
    assert history is not None
    assert [(h["event_id"], h["position"], h["late"]) for h in history] == [
        (ID_A, 1, False),
        (ID_C, 3, True),
        (ID_B, 2, True),
        (ID_D, 4, True),
    ]
    assert [h["changed"] for h in history] == [
        {"RoomName": {"from": "c", "to": "a"}},
        {"RoomName": {"from": "b", "to": "c"}, "IsPublicVisible": {"from": False, "to": True}},
        {"RoomName": {"from": "d", "to": "b"}},
        {"RoomName": {"to": "d"}, "IsPublicVisible": {"to": False}},
    ]
    assert oracle.intervals("r") == [{"from_ms": T, "to_ms": None, "public": True}]


def test_any_arrival_order_gives_the_same_state() -> None:
    one = feed(TIE["a"], TIE["b"], TIE["c"], TIE["d"])
    two = feed(TIE["d"], TIE["c"], TIE["b"], TIE["a"])
    assert one.room("r") == two.room("r")
    assert one.counts("r") == two.counts("r")
    late = two.history("r")
    assert late is not None
    assert [h["late"] for h in late] == [False, False, True, False]  # A 4, C 2, B 3, D 1


def test_patch_keeps_what_is_absent_and_takes_what_is_empty() -> None:
    oracle = feed(
        update("r", 10, '"RoomName":"x","Category":[1,2],"Odd":{"k":1}'),
        update("r", 20, '"RoomName":"","Category":[]'),
        update("r", 30, '"Odd":null'),
        update("r", 40, ""),
    )
    room = oracle.room("r")
    assert room is not None
    assert room["room_info"] == {"RoomName": "", "Category": [], "Odd": None}
    assert (room["events"], room["event_time_ms"]) == (4, 40)
    assert {f: s["set_at_ms"] for f, s in room["fields"].items()} == {
        "RoomName": 20,
        "Category": 20,
        "Odd": 30,
    }
    history = oracle.history("r")
    assert history is not None
    assert [h["event_time_ms"] for h in history] == [30, 20, 10]  # the empty patch changed nothing
    assert history[0]["changed"] == {"Odd": {"from": {"k": 1}, "to": None}}


def test_change_is_of_the_canonical_text() -> None:
    values = ["1", "1.0", "true", '"1"', "[1]", "[1.0]", '{"a":1,"b":2}', '{"b":2,"a":1}', '{"a":true,"b":2}']
    oracle = feed(*[update("r", 10 * i, f'"F":{v}') for i, v in enumerate(values, start=1)])
    counts = oracle.counts("r")
    assert counts == {
        "room_id": "r",
        "counts": {"F": {"observations": 9, "changes": 7, "first_seen_ms": 10, "last_changed_ms": 90}},
    }
    history = oracle.history("r")
    assert history is not None
    assert [h["event_time_ms"] for h in history] == [90, 70, 60, 50, 40, 30, 20, 10]
    assert texts(history[-2]["changed"]) == '{"F": {"from": 1, "to": 1.0}}'
    assert texts(history[-3]["changed"]) == '{"F": {"from": 1.0, "to": true}}'


def test_fields_name_the_event_that_last_changed_not_last_repeated() -> None:
    oracle = feed(
        update("r", 10, '"N":"a"', '"ann"'),
        update("r", 20, '"N":"b"', "90071992547409931"),
        update("r", 30, '"N":"b"', '"carl"'),
    )
    room = oracle.room("r")
    assert room is not None
    assert room["fields"]["N"]["set_at_ms"] == 20
    assert room["fields"]["N"]["operator"] == 90071992547409931
    assert room["fields"]["N"]["event_id"] == oracle.events[1].event_id
    assert room["event_id"] == oracle.events[2].event_id


def test_as_of_and_known_at_cut_inclusively() -> None:
    oracle = Oracle()
    assert oracle.receive(update("r", 10, '"N":"a"'), 100)
    assert oracle.receive(update("r", 30, '"N":"c"'), 200)
    assert oracle.receive(update("r", 20, '"N":"b"'), 300)

    def name(as_of: int | None, known_at: int | None) -> Any:
        room = oracle.room("r", as_of, known_at)
        if room is None:
            return None
        assert (room["as_of_ms"], room["known_at_ms"]) == (as_of, known_at)
        return room["room_info"]["N"], room["events"]

    assert name(None, None) == ("c", 3)
    assert name(9, None) is None
    assert name(10, None) == ("a", 1)
    assert name(29, None) == ("b", 2)
    assert name(30, None) == ("c", 3)
    assert name(None, 99) is None
    assert name(None, 100) == ("a", 1)
    assert name(None, 200) == ("c", 2)
    assert name(29, 299) == ("a", 1)
    assert name(29, 300) == ("b", 2)


def test_history_window_field_and_late() -> None:
    oracle = Oracle()
    assert oracle.receive(update("r", 10, '"N":"a"'), 1)
    assert oracle.receive(update("r", 30, '"N":"c","M":1', '"bob"'), 2, "10.0.0.1", "iOS")
    assert oracle.receive(update("r", 20, '"N":"b"'), 3)
    assert oracle.receive(update("s", 5, '"N":"z"'), 4)
    window = oracle.history("r", from_ms=20, to_ms=31, field="M")
    assert window == [
        {
            "event_id": oracle.events[1].event_id,
            "position": 2,
            "event_time_ms": 30,
            "received_at_ms": 2,
            "operator": "bob",
            "platform": "iOS",
            "late": False,
            "changed": {"M": {"to": 1}, "N": {"from": "b", "to": "c"}},
        }
    ]
    half_open = oracle.history("r", from_ms=20, to_ms=30)
    assert half_open is not None
    assert [(h["event_time_ms"], h["late"], h["changed"]) for h in half_open] == [
        (20, True, {"N": {"from": "a", "to": "b"}})
    ]
    cut = oracle.history("r", as_of=20)
    assert cut is not None
    assert [h["late"] for h in cut] == [True, False]  # though the cut leaves out what sorts behind
    known = oracle.history("r", known_at=2)
    assert known is not None
    assert [h["changed"] for h in known] == [
        {"M": {"to": 1}, "N": {"from": "a", "to": "c"}},
        {"N": {"to": "a"}},
    ]
    assert oracle.history("r", from_ms=40) == []
    assert oracle.history("r", as_of=9) is None
    other = oracle.history("s")
    assert other is not None
    assert other[0]["late"] is False  # another room's events make nothing late


def test_diff() -> None:
    oracle = feed(
        update("r", 10, '"N":1,"K":[1]'),
        update("r", 20, '"N":2,"M":"m"'),
        update("r", 30, '"N":1'),
    )
    assert oracle.diff("r", 10, 20) == {"changed": {"N": {"from": 1, "to": 2}, "M": {"to": "m"}}}
    assert oracle.diff("r", 20, 10) == {"changed": {"N": {"from": 2, "to": 1}, "M": {"from": "m"}}}
    assert oracle.diff("r", 10, 30) == {"changed": {"M": {"to": "m"}}}
    assert oracle.diff("r", 5, 10) == {"changed": {"N": {"to": 1}, "K": {"to": [1]}}}
    assert oracle.diff("r", 5, 9) is None
    assert oracle.diff("r", 10, 30, as_of=25) == {"changed": {"N": {"from": 1, "to": 2}, "M": {"to": "m"}}}
    assert oracle.diff("r", 26, 30, as_of=25) == {"changed": {}}
    assert oracle.diff("r", 10, 30, known_at=1) == {"changed": {}}
    assert oracle.diff("r", 10, 30, as_of=9) is None


def test_counts_and_totals() -> None:
    oracle = feed(
        update("r", 20, '"N":"b"'),
        update("r", 10, '"N":"a"'),
        update("r", 30, '"N":"b","M":0'),
        update("s", 5, '"N":"b"'),
        update("s", 50, '"N":"b","M":0'),
    )
    assert oracle.counts("r") == {
        "room_id": "r",
        "counts": {
            "N": {"observations": 3, "changes": 1, "first_seen_ms": 10, "last_changed_ms": 20},
            "M": {"observations": 1, "changes": 0, "first_seen_ms": 30, "last_changed_ms": None},
        },
    }
    assert oracle.counts("r", known_at=1) == {
        "room_id": "r",
        "counts": {"N": {"observations": 1, "changes": 0, "first_seen_ms": 20, "last_changed_ms": None}},
    }
    assert oracle.counts("r", as_of=9) is None
    assert oracle.total_counts() == {
        "N": {"observations": 5, "changes": 1, "first_seen_ms": 5, "last_changed_ms": 20},
        "M": {"observations": 2, "changes": 0, "first_seen_ms": 30, "last_changed_ms": None},
    }


def test_intervals_merge_and_ignore_non_booleans() -> None:
    oracle = feed(
        update("r", 10, '"N":"a"'),
        update("r", 20, '"IsPublicVisible":"false"'),
        update("r", 30, '"IsPublicVisible":true'),
        update("r", 40, '"IsPublicVisible":true'),
        update("r", 50, '"IsPublicVisible":0'),
        update("r", 60, '"IsPublicVisible":false'),
        update("r", 70, '"IsPublicVisible":null'),
        update("r", 80, '"IsPublicVisible":true'),
    )
    assert oracle.intervals("r") == [
        {"from_ms": 30, "to_ms": 60, "public": True},
        {"from_ms": 60, "to_ms": 80, "public": False},
        {"from_ms": 80, "to_ms": None, "public": True},
    ]
    assert oracle.intervals("r", as_of=79) == [
        {"from_ms": 30, "to_ms": 60, "public": True},
        {"from_ms": 60, "to_ms": None, "public": False},
    ]
    assert oracle.intervals("r", as_of=29) == []
    assert oracle.intervals("r", as_of=9) is None
    room = oracle.room("r", as_of=79)
    assert room is not None
    assert room["room_info"]["IsPublicVisible"] is None


def test_a_millisecond_of_several_values_makes_no_empty_interval() -> None:
    oracle = feed(
        update("r", T - 1, '"IsPublicVisible":false'),
        TIE["c"],
        TIE["d"],
        update("r", T + 5, '"IsPublicVisible":false'),
    )
    assert oracle.intervals("r") == [
        {"from_ms": T - 1, "to_ms": T, "public": False},
        {"from_ms": T, "to_ms": T + 5, "public": True},
        {"from_ms": T + 5, "to_ms": None, "public": False},
    ]
    # D, B: both false; the neighbours merge over the millisecond.
    merged = feed(update("r", T - 1, '"IsPublicVisible":false'), TIE["b"], TIE["d"])
    assert merged.intervals("r") == [{"from_ms": T - 1, "to_ms": None, "public": False}]


@pytest.mark.parametrize(
    ("asked", "intervals", "public_ms", "hidden_ms", "window"),
    [
        ({"now_ms": 100}, [(10, 30, True), (30, 60, False), (60, None, True)], 60, 30, (10, 100)),
        ({"now_ms": 40}, [(10, 30, True), (30, 60, False), (60, None, True)], 20, 10, (10, 40)),
        ({"now_ms": 5}, [(10, 30, True), (30, 60, False), (60, None, True)], 0, 0, (None, 5)),
        ({"now_ms": 100, "as_of": 50}, [(10, 30, True), (30, None, False)], 20, 20, (10, 50)),
        ({"now_ms": 45, "as_of": 50}, [(10, 30, True), (30, None, False)], 20, 15, (10, 45)),
        (
            {"now_ms": 100, "from_ms": 20},
            [(20, 30, True), (30, 60, False), (60, None, True)],
            50,
            30,
            (20, 100),
        ),
        ({"now_ms": 100, "from_ms": 30}, [(30, 60, False), (60, None, True)], 40, 30, (30, 100)),
        ({"now_ms": 100, "from_ms": 0, "to_ms": 30}, [(10, 30, True)], 20, 0, (0, 30)),
        (
            {"now_ms": 100, "from_ms": 20, "to_ms": 70},
            [(20, 30, True), (30, 60, False), (60, 70, True)],
            20,
            30,
            (20, 70),
        ),
        ({"now_ms": 40, "to_ms": 70}, [(10, 30, True), (30, 40, False)], 20, 10, (10, 40)),
        ({"now_ms": 100, "to_ms": 1000}, [(10, 30, True), (30, 60, False), (60, 100, True)], 60, 30, (10, 100)),
        ({"now_ms": 100, "to_ms": 1000, "as_of": 45}, [(10, 30, True), (30, 45, False)], 20, 15, (10, 45)),
        ({"now_ms": 100, "from_ms": 200, "to_ms": 1000}, [], 0, 0, (200, 200)),
        ({"now_ms": 100, "to_ms": 10}, [], 0, 0, (None, 10)),
        ({"now_ms": 100, "from_ms": 200}, [(200, None, True)], 0, 0, (200, 200)),
    ],
)
def test_visibility_window(
    asked: dict[str, int],
    intervals: list[tuple[int, int | None, bool]],
    public_ms: int,
    hidden_ms: int,
    window: tuple[int | None, int],
) -> None:
    oracle = feed(
        update("r", 10, '"IsPublicVisible":true'),
        update("r", 30, '"IsPublicVisible":false'),
        update("r", 60, '"IsPublicVisible":true'),
    )
    assert oracle.visibility("r", **asked) == {
        "room_id": "r",
        "intervals": [{"from_ms": f, "to_ms": t, "public": p} for f, t, p in intervals],
        "public_ms": public_ms,
        "hidden_ms": hidden_ms,
        "window": {"from_ms": window[0], "to_ms": window[1]},
    }


def test_visibility_without_a_timeline() -> None:
    oracle = feed(update("r", 10, '"N":1'))
    assert oracle.visibility("r", 100) == {
        "room_id": "r",
        "intervals": [],
        "public_ms": 0,
        "hidden_ms": 0,
        "window": {"from_ms": None, "to_ms": 100},
    }
    assert oracle.visibility("r", 100, as_of=9) is None
    assert oracle.visibility("s", 100) is None


def test_other_commands_take_a_position_and_nothing_else() -> None:
    other = b'{"CallbackCommand":"Live.CallbackAfterCreateRoom","RoomInfo":{"RoomId":"%s","N":9},"EventTime":99}'
    oracle = feed(
        other.replace(b"%s", b"r"),
        b'{"CallbackCommand":"Live.CallbackAfterCreateRoomReachingThreshold"}',
        other.replace(b"%s", b"q"),
        update("r", 10, '"N":1'),
    )
    assert oracle.rooms() == ["r"]
    assert oracle.room("q") is None
    history = oracle.history("r")
    assert history is not None
    assert [(h["position"], h["late"]) for h in history] == [(4, False)]
    assert oracle.total_counts() == {
        "N": {"observations": 1, "changes": 0, "first_seen_ms": 10, "last_changed_ms": None}
    }


def test_rooms_sort_by_code_point_within_the_cut() -> None:
    names = ["b", "\U0001f600", "\uff01", "a", "B", "é"]
    oracle = feed(*[update(name, 10 + i, "") for i, name in enumerate(names)])
    assert oracle.rooms() == ["B", "a", "b", "é", "\uff01", "\U0001f600"]
    assert oracle.rooms(as_of=11) == ["b", "\U0001f600"]
    assert oracle.rooms(known_at=4, as_of=12) == ["b", "\uff01", "\U0001f600"]
    room = oracle.room("a")
    assert room is not None
    assert (room["room_info"], room["fields"]) == ({}, {})
    assert oracle.history("a") == []
