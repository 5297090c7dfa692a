"""What the page about the server's health shows."""

from typing import Any

from app.infra.metrics import OUTCOMES
from app.infra.times import now_ms
from app.queries import log
from app.queries.reader import Moment
from app.server.node import Service
from app.server.page.drawing import delays_of
from app.server.sessions import ADMIN, Role

_REJECTED = 20
_RECENT = 1000
_TAKEN = ("accepted", "duplicate", "blocking")
_REFUSALS = 20


def read_health(moment: Moment, service: Service, role: Role | None) -> dict[str, Any]:
    """The values of the template; the quarantine only for the role that may see it."""
    status = log.status(moment)
    health = service.health(status)
    head = moment.log.head()
    last_minute = head.position - moment.log.position_at(now_ms() - 60_000)
    records = moment.log.tail(max(0, head.position - _RECENT), _RECENT)
    delays_ms = [record.received_at_ms - record.event_time_ms for record in records]
    return {
        "status": status,
        "projections": status.projections,
        "per_second": last_minute / 60,
        "received_at_ms": head.received_at_ms,
        "silent_ms": max(0, now_ms() - head.received_at_ms),
        "refusals": service.receiver.refusals.latest()[:_REFUSALS],
        "delays": delays_of(delays_ms),
        "recent": len(delays_ms),
        "counters": _counters(service),
        "health": health,  # for the banners
        "waiting": health.waiting,
        "free_bytes": health.free_bytes,
        "total_bytes": health.total_bytes,
        "quarantine": log.rejected(moment, _REJECTED).rejected if role == ADMIN else None,
        "head": head.position,
    }


def _counters(service: Service) -> dict[str, float]:
    def value(name: str, **labels: str) -> float:
        return service.metrics.registry.get_sample_value(name, labels) or 0

    return {
        "late": value("roomlapse_late_events_total"),
        "answered": sum(value("roomlapse_callbacks_total", outcome=outcome) for outcome in _TAKEN),
        "refused": sum(
            value("roomlapse_callbacks_total", outcome=outcome) for outcome in OUTCOMES if outcome not in _TAKEN
        ),
    }
