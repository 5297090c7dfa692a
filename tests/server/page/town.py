"""What the servers of the pages hold: many rooms, hostile names, a room with a long history, tokens."""

import json
from typing import Any

from conftest import T0, Server, body_of

READ_TOKEN, ADMIN_TOKEN = "reader-ß-token", "admin-token"
GUARDED = {"ROOMLAPSE_API_TOKEN": READ_TOKEN, "ROOMLAPSE_ADMIN_TOKEN": ADMIN_TOKEN}
COOKIE = "roomlapse_session"
MARKUP = "<script>alert(1)<img src=x onerror=alert(2)>"
CLOSING = "</td></table></main></title></script>-->]]><svg onload=alert(1)>"  # no room id: they hold no slash
HOSTILE = [
    "a b",
    " lead and trail ",
    "what?",
    "a#b",
    "100%",
    "%41",
    "a%2Fb%00",
    "a+b&c=d;e",
    ".hidden",
    "..a",
    "...",
    "dots.and.dots",
    "Café-Süd",
    "直播间🎤",
    "\u202egnp.exe\u202c",
    "a\nb\tc\rd\x1be\x7f",
    "zero\u200bwidth\ufeff",
    "line\u2028par\u2029",
    MARKUP,
    '" onmouseover="alert(1)" x=\'',
    "<!-- <svg onload=alert(1)> <textarea>",
    "&lt;b&gt;&amp;",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "\\\\back\\slash",
    "=HYPERLINK(1)",
    "é" * 64,
    "x" * 128,
]
NUMBERS = [2**63, 10**30, 2**53 + 1]
DIARY, SIBLINGS = "diary", "only siblings"
CROWD = 121


def crowd() -> list[tuple[str, int, bool | None]]:
    """Many rooms: their id, the time of their last update, whether they are public."""
    return [
        (f"crowd {n:03}", T0 + 1000 * (n // 3), None if n % 5 == 4 else n % 2 == 0) for n in range(CROWD)
    ]  # three of them in each millisecond


def diary() -> list[tuple[bytes, str]]:
    """The callbacks of a room with a long history, in order of arrival: ties, repeats, late ones, odd values."""
    made: list[tuple[bytes, str]] = []
    operators: list[Any] = ["ann", "bob", 2**63, None, MARKUP]
    for n in range(60):
        fields: dict[str, Any] = {"RoomName": f"chapter {n}", "MaxMemberCount": NUMBERS[n % 3]}
        if n % 4 == 0:
            fields["IsPublicVisible"] = n % 8 == 0
        made.append((body_of(DIARY, T0 + 1000 * n, operator=operators[n % 5], **fields), ["Web", "iOS", MARKUP][n % 3]))
    made.append((body_of(DIARY, T0 + 5000, operator="tied", CustomInfo=CLOSING), "Web"))
    made.append((body_of(DIARY, T0 + 60_500, operator="same", RoomName="chapter 59"), "Web"))  # changes nothing
    made.append((body_of(DIARY, T0 + 10_500, operator="eve", Category=[1, 2, 3], RoomName=""), "Android"))
    made.append((body_of(DIARY, T0 + 20_500, operator="eve", IsPublicVisible=False, Notice="\u202eetiton"), "Android"))
    info = f'{{"RoomId":"{DIARY}","CoverURL":"https://covers.example/{"x" * 600}.png","Ratio":1.50}}'
    made.append(
        (
            b'{"CallbackCommand":"Live.CallbackAfterUpdateRoomInfo","Operator_Account":1.50,"RoomInfo":%s,"EventTime":%d}'
            % (info.encode(), T0 + 70_000),
            "Web",
        )
    )
    return made


REFUSED = [
    b"<script>alert('quarantine')</script>",
    b"\xff\xfe\x00binary",
    "\u202etfel".encode(),
    b'{"a": "' + b"x" * 9000,
]


def fill(server: Server) -> None:
    """Send everything that the tests look at."""
    for room_id, at, public in crowd():
        fields = {} if public is None else {"IsPublicVisible": public}
        assert server.post(body_of(room_id, at, RoomName=f"The {room_id.upper()}", **fields)).status_code == 200
    for n, room_id in enumerate(HOSTILE):
        name = HOSTILE[-1 - n]
        body = body_of(room_id, T0 + 10**6 + n, operator=name, IsPublicVisible=True, RoomName=name, **{name: [CLOSING]})
        assert server.post(body, OptPlatform=name).status_code == 200
    for body, platform in diary():
        assert server.post(body, OptPlatform=platform, ClientIP="203.0.113.5").status_code == 200
    content = {"CallbackCommand": "Live.CallbackAfterSetMetadata", "RoomId": SIBLINGS, "EventTime": T0 + 5}
    assert server.post(json.dumps(content).encode()).status_code == 200
    for body in REFUSED:
        assert server.post(body).status_code == 400
