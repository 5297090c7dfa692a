"""Brute-force oracle for the fold: every answer is recomputed from the list of all received events."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

UPDATE = "Live.CallbackAfterUpdateRoomInfo"


def canonical(value: Any) -> str:
    """Canonical JSON text: keys sorted, no white space, characters as they are."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True)
class Event:
    """One stored event; everything but the arrival is read from the body."""

    position: int
    event_id: str
    received_at_ms: int
    client_ip: str | None
    platform: str | None
    body: dict[str, Any]

    @property
    def is_update(self) -> bool:
        return bool(self.body["CallbackCommand"] == UPDATE)

    # The properties below are asked of updates only; other commands need not carry these keys.

    @property
    def room_id(self) -> str:
        room_id: str = self.body["RoomInfo"]["RoomId"]
        return room_id

    @property
    def event_time_ms(self) -> int:
        return int(self.body["EventTime"])  # its digits may come as text

    @property
    def order(self) -> tuple[int, str]:
        """The key of event order inside a room."""
        return (self.event_time_ms, self.event_id)

    @property
    def operator(self) -> Any:
        return self.body.get("Operator_Account")

    @property
    def patch(self) -> dict[str, Any]:
        """The fields the event gives a value to; RoomId is the key, not a field."""
        return {field: value for field, value in self.body["RoomInfo"].items() if field != "RoomId"}


def field_names(events: list[Event]) -> list[str]:
    """Every field some event gives a value to."""
    return sorted({field for event in events for field in event.patch})


def sightings(events: list[Event], field: str) -> list[Event]:
    """The events, in the order given, that give the field a value."""
    return [event for event in events if field in event.patch]


def changers(events: list[Event], field: str) -> list[Event]:
    """The sightings whose value differs from that of the sighting before; the first is none."""
    seen = sightings(events, field)
    return [
        seen[i] for i in range(1, len(seen)) if canonical(seen[i].patch[field]) != canonical(seen[i - 1].patch[field])
    ]


def state(events: list[Event]) -> dict[str, Any]:
    """Each field with the value of its last sighting."""
    return {field: sightings(events, field)[-1].patch[field] for field in field_names(events)}


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The fields that differ between two states; "from" or "to" is absent where the field is."""
    changed: dict[str, dict[str, Any]] = {}
    for field in sorted(set(before) | set(after)):
        if field not in before:
            changed[field] = {"to": after[field]}
        elif field not in after:
            changed[field] = {"from": before[field]}
        elif canonical(before[field]) != canonical(after[field]):
            changed[field] = {"from": before[field], "to": after[field]}
    return changed


def timeline(events: list[Event]) -> list[dict[str, Any]]:
    """The visibility intervals of events in event order; the last is open."""
    ruling: dict[int, bool] = {}  # per millisecond: the last boolean in event order
    for event in events:
        value = event.patch.get("IsPublicVisible")
        if isinstance(value, bool):
            ruling[event.event_time_ms] = value
    times = sorted(ruling)
    starts = [times[i] for i in range(len(times)) if i == 0 or ruling[times[i]] != ruling[times[i - 1]]]
    ends = [*starts[1:], None]
    return [{"from_ms": start, "to_ms": end, "public": ruling[start]} for start, end in zip(starts, ends, strict=False)]


class Oracle:
    """All received events, and every question answered from them alone."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def receive(
        self, body: bytes, received_at_ms: int, client_ip: str | None = None, platform: str | None = None
    ) -> bool:
        """Store an event; False if it is a duplicate."""
        obj: dict[str, Any] = json.loads(body.decode())
        event_id = hashlib.sha256(canonical(obj).encode()).hexdigest()
        if any(event.event_id == event_id for event in self.events):
            return False
        if self.events:
            received_at_ms = max(received_at_ms, self.events[-1].received_at_ms)
        position = len(self.events) + 1
        self.events.append(Event(position, event_id, received_at_ms, client_ip, platform, obj))
        return True

    def _updates(self) -> list[Event]:
        return [event for event in self.events if event.is_update]

    def _cut(self, room_id: str, as_of: int | None, known_at: int | None) -> list[Event]:
        """The room's updates within as_of and known_at, in event order."""
        events = [event for event in self._updates() if event.room_id == room_id]
        if as_of is not None:
            events = [event for event in events if event.event_time_ms <= as_of]
        if known_at is not None:
            events = [event for event in events if event.received_at_ms <= known_at]
        return sorted(events, key=lambda event: event.order)

    def _late(self, event: Event) -> bool:
        """Whether an earlier arrival of the room sorts behind; a fact of the log, not of a cut."""
        return any(
            other.room_id == event.room_id and other.position < event.position and other.order > event.order
            for other in self._updates()
        )

    def rooms(self, as_of: int | None = None, known_at: int | None = None) -> list[str]:
        """The rooms with an update in the cut, by code point."""
        room_ids = sorted({event.room_id for event in self._updates()})
        return [room_id for room_id in room_ids if self._cut(room_id, as_of, known_at)]

    def room(self, room_id: str, as_of: int | None = None, known_at: int | None = None) -> dict[str, Any] | None:
        """ROOM, or None if the room is unknown in the cut."""
        events = self._cut(room_id, as_of, known_at)
        if not events:
            return None
        fields: dict[str, dict[str, Any]] = {}
        for field in field_names(events):
            # The first sighting set it; each changer after that took it over.
            setter = [sightings(events, field)[0], *changers(events, field)][-1]
            fields[field] = {
                "set_at_ms": setter.event_time_ms,
                "event_id": setter.event_id,
                "operator": setter.operator,
            }
        return {
            "room_id": room_id,
            "room_info": state(events),
            "fields": fields,
            "event_id": events[-1].event_id,
            "event_time_ms": events[-1].event_time_ms,
            "events": len(events),
            "as_of_ms": as_of,
            "known_at_ms": known_at,
        }

    def history(
        self,
        room_id: str,
        as_of: int | None = None,
        known_at: int | None = None,
        from_ms: int | None = None,
        to_ms: int | None = None,
        field: str | None = None,
    ) -> list[dict[str, Any]] | None:
        """The changes, newest first, or None if the room is unknown in the cut."""
        events = self._cut(room_id, as_of, known_at)
        if not events:
            return None
        entries: list[dict[str, Any]] = []
        for i, event in enumerate(events):
            entry = {
                "event_id": event.event_id,
                "position": event.position,
                "event_time_ms": event.event_time_ms,
                "received_at_ms": event.received_at_ms,
                "operator": event.operator,
                "platform": event.platform,
                "late": self._late(event),
                "changed": difference(state(events[:i]), state(events[: i + 1])),
            }
            entries.append(entry)
        entries = [entry for entry in entries if entry["changed"]]
        if from_ms is not None:
            entries = [entry for entry in entries if entry["event_time_ms"] >= from_ms]
        if to_ms is not None:
            entries = [entry for entry in entries if entry["event_time_ms"] < to_ms]
        if field is not None:
            entries = [entry for entry in entries if field in entry["changed"]]
        return entries[::-1]

    def diff(
        self, room_id: str, from_ms: int, to_ms: int, as_of: int | None = None, known_at: int | None = None
    ) -> dict[str, Any] | None:
        """What differs between two instants, or None if the room is unknown at both."""
        if as_of is not None:
            from_ms = min(from_ms, as_of)
            to_ms = min(to_ms, as_of)
        before = self._cut(room_id, from_ms, known_at)
        after = self._cut(room_id, to_ms, known_at)
        if not before and not after:
            return None
        return {"changed": difference(state(before), state(after))}

    def counts(self, room_id: str, as_of: int | None = None, known_at: int | None = None) -> dict[str, Any] | None:
        """Observations and changes per field, or None if the room is unknown in the cut."""
        events = self._cut(room_id, as_of, known_at)
        if not events:
            return None
        counts: dict[str, dict[str, Any]] = {}
        for field in field_names(events):
            seen = sightings(events, field)
            changed = changers(events, field)
            counts[field] = {
                "observations": len(seen),
                "changes": len(changed),
                "first_seen_ms": seen[0].event_time_ms,
                "last_changed_ms": changed[-1].event_time_ms if changed else None,
            }
        return {"room_id": room_id, "counts": counts}

    def total_counts(self) -> dict[str, dict[str, Any]]:
        """The counts of all rooms together, per field."""
        totals: dict[str, dict[str, Any]] = {}
        for field in field_names(self._updates()):
            cuts = [self._cut(room_id, None, None) for room_id in self.rooms()]
            seen = [event for events in cuts for event in sightings(events, field)]
            changed = [event for events in cuts for event in changers(events, field)]
            totals[field] = {
                "observations": len(seen),
                "changes": len(changed),
                "first_seen_ms": min(event.event_time_ms for event in seen),
                "last_changed_ms": max((event.event_time_ms for event in changed), default=None),
            }
        return totals

    def intervals(
        self, room_id: str, as_of: int | None = None, known_at: int | None = None
    ) -> list[dict[str, Any]] | None:
        """The visibility intervals, unclipped, or None if the room is unknown in the cut."""
        events = self._cut(room_id, as_of, known_at)
        if not events:
            return None
        return timeline(events)

    def visibility(
        self,
        room_id: str,
        now_ms: int,
        from_ms: int | None = None,
        to_ms: int | None = None,
        as_of: int | None = None,
        known_at: int | None = None,
    ) -> dict[str, Any] | None:
        """The intervals clipped to the window and their sums, or None if the room is unknown in the cut."""
        whole = self.intervals(room_id, as_of, known_at)
        if whole is None:
            return None
        end = now_ms
        if as_of is not None and as_of < now_ms:
            end = as_of
        window_to = end if to_ms is None or end < to_ms else to_ms  # what comes after has not happened
        if from_ms is not None and window_to < from_ms:  # a window that begins in the future is empty
            window_to = from_ms
        window_from: int | None = from_ms
        if window_from is None and whole and whole[0]["from_ms"] < window_to:
            window_from = whole[0]["from_ms"]

        clipped: list[dict[str, Any]] = []
        for interval in whole:
            start: int = interval["from_ms"]
            stop: int | None = interval["to_ms"]
            if from_ms is not None:
                start = max(start, from_ms)
            if to_ms is not None:
                stop = window_to if stop is None else min(stop, window_to)
            if stop is None or start < stop:
                clipped.append({"from_ms": start, "to_ms": stop, "public": interval["public"]})

        # Without `to` the list reaches past the window's end; the sums do not.
        sums = {True: 0, False: 0}
        for interval in clipped:
            stop = window_to if interval["to_ms"] is None else min(interval["to_ms"], window_to)
            sums[interval["public"]] += max(0, stop - interval["from_ms"])
        return {
            "room_id": room_id,
            "intervals": clipped,
            "public_ms": sums[True],
            "hidden_ms": sums[False],
            "window": {"from_ms": window_from, "to_ms": window_to},
        }
