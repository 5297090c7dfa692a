"""Rate limits: a token bucket for each address."""

import time
from collections.abc import Callable
from ipaddress import ip_address, ip_network

from app.infra.asgi import Scope

_MAX_ADDRESSES = 10_000
_BURST_S = 5.0  # a bucket holds what comes in so many seconds


class RateLimit:
    """Counts the requests of each address.

    Addresses of this machine are not limited unless `everyone`: a proxy on it sends the requests of all clients.
    """

    def __init__(self, per_s: float, *, everyone: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """`per_s`: 0 for no limit."""
        self._per_s = per_s
        self._burst = per_s * _BURST_S
        self._everyone = everyone
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens left, and when; the latest asker stands last

    def allows(self, scope: Scope) -> bool:
        """Count a request; False if its address has sent too many."""
        client = scope.get("client")
        if not self._per_s or client is None or (not self._everyone and _is_of_this_machine(client[0])):
            return True
        address, now_s = _key_of(client[0]), self._clock()
        left, since_s = self._buckets.pop(address, (self._burst, now_s))
        left = min(self._burst, left + (now_s - since_s) * self._per_s)
        allowed = left >= 1
        self._buckets[address] = (left - 1 if allowed else left, now_s)
        if len(self._buckets) > _MAX_ADDRESSES:
            del self._buckets[next(iter(self._buckets))]
        return allowed


def _key_of(address: str) -> str:
    """The bucket of an address: one for a whole /64 of IPv6, because every client has that many addresses."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    return address if ip.version == 4 else str(ip_network((ip, 64), strict=False))


def _is_of_this_machine(address: str) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback  # a server that listens on :: sees IPv4 within IPv6
