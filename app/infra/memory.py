"""How a process that runs for long looks for garbage: seldom, because hardly any of what it makes is in cycles."""

import gc

_YOUNG, _MIDDLE, _OLD = 50_000, 20, 100


def settle_memory() -> None:
    """Leave alone what a program has once it is up, and look at what comes later less often than Python would.

    A batch of events is tens of thousands of objects that are all in use until it is written; looking through them
    again and again took a tenth of a projector's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
