"""How a server is: one answer for the page, for its banners and for `/readyz`."""

from app.queries.answers import Health, Readiness, Status

LOW_DISK_BYTES = 200 * 2**20
_UNTOLD = "ask with the API token to be told why"


def health(
    status: Status | None,
    *,
    stopped: dict[str, str],
    waiting: str | None,
    failure: str | None,
    disk: tuple[int, int],
    unsigned: bool,
    unreadable: str | None = None,
    caught_up: bool = True,
) -> Health:
    """Put together what the databases, the projector and the receiver say; `disk`: its free and all of its bytes.

    `stopped` is what the projector last reported: where there is a status, its checkpoints are newer.
    """
    if status is not None:
        stopped = {name: it.error for name, it in status.projections.items() if it.error is not None}
    return Health(status, unreadable, stopped, waiting, failure, caught_up, *disk, unsigned)


def readiness(health: Health, *, told: bool) -> Readiness:
    """Whether callbacks are stored and reads see all of them; without `told` the reasons are withheld."""

    def reason(text: str | None) -> str | None:
        return text if told or text is None else _UNTOLD

    if health.status is None:
        return Readiness(False, {}, {}, None, reason(health.unreadable))
    return Readiness(
        health.caught_up and not health.stopped and health.waiting is None and health.failure is None,
        {name: projection.lag for name, projection in health.status.projections.items()},
        {name: error if told else _UNTOLD for name, error in health.stopped.items()},
        reason(health.waiting),
        reason(health.failure),
    )


def warnings(health: Health) -> list[str]:
    """What an operator has to act on, a sentence each."""
    found = []
    if health.failure is not None:
        found.append(f"Callbacks are refused: {health.failure}")
    elif health.free_bytes < LOW_DISK_BYTES:
        found.append("The disk is nearly full: when it is full, callbacks are refused.")
    if health.waiting is not None:
        found.append(f"The pages are out of date because the projections are waiting: {health.waiting}")
    found += [f"The projection {name} has stopped: {error}" for name, error in health.stopped.items()]
    if health.unsigned:
        found.append("Callbacks are not signed: anybody who reaches this address can send them. Set a callback token.")
    return found
