"""The callbacks of an evening, which the tests of the command line ask about."""

import random
from collections.abc import Iterator

from conftest import T0, UPDATE, body_of

PROJECTIONS = ("current_room", "change_counts", "visibility")
TRICKY = "tricky\x1b[31m\u202e \u200b\x07房"


def lines_of(bodies: list[bytes]) -> bytes:
    """Bodies as lines."""
    return b"".join(body + b"\n" for body in bodies)


def history_of_an_evening() -> list[bytes]:
    """Bodies in order of arrival: 260 updates of a busy room, some late, a few of others, and other commands."""
    dice = random.Random(5)
    bodies = []
    for number in range(260):
        late = dice.randrange(5000) if number % 9 == 0 else 0
        fields = {
            "RoomName": f"n{number % 7}",
            "IsPublicVisible": number % 3 != 0,
            "ActivityStatus": dice.choice([0, 1, 1.0, True, "1", None]),
        }
        patch = dict(dice.sample(list(fields.items()), dice.randint(1, 3)))
        bodies.append(body_of("busy", T0 + number * 1000 - late, operator=f"host-{number % 3}", **patch))
        if number % 40 == 0:
            bodies.append(body_of("quiet ?#%", T0 + number, operator=2**60, RoomName=f"q{number}", CustomInfo=""))
            bodies.append(b'{"CallbackCommand":"Live.CallbackAfterDestroyRoom","RoomId":"busy","n":%d}' % number)
    bodies.append(body_of(TRICKY, T0, operator=TRICKY, RoomName=TRICKY, IsPublicVisible=True))
    bodies.append(b' {"EventTime":%d , "CallbackCommand":"%s","RoomInfo":{"RoomId":"spaced"}} ' % (T0, UPDATE.encode()))
    return bodies


BODIES = history_of_an_evening()
NUMBER = len(BODIES)


QUESTIONS = [
    ["rooms"],
    ["rooms", "--public"],
    ["rooms", "--as-of", str(T0 + 5), "-q", "Q"],
    ["room", "busy"],
    ["room", TRICKY],
    ["room", "quiet ?#%", "--as-of", str(T0 + 100)],
    ["history", "busy", "--limit", "500"],
    ["history", "busy", "--field", "ActivityStatus", "--from", str(T0 + 9000)],
    ["diff", "busy", "--from", str(T0 + 20_000), "--to", str(T0 + 200_000)],
    ["counts"],
    ["counts", "busy"],
    ["visibility", "busy", "--to", str(T0 + 10**6)],
]


MANY = 46_000


def many_lines(number: int) -> Iterator[bytes]:
    """So many bodies of 499 rooms, as lines."""
    for i in range(number):
        yield (
            b'{"CallbackCommand":"Live.CallbackAfterUpdateRoomInfo","EventTime":%d,'
            b'"RoomInfo":{"RoomId":"room-%d","RoomName":"n%d","IsPublicVisible":%s}}\n'
            % (T0 + i, i % 499, i % 7, b"true" if i % 3 else b"false")
        )
