"""What a check of the doctor finds."""

import msgspec

OK, WARNING, BAD = "ok", "warning", "bad"


class Finding(msgspec.Struct, frozen=True):
    """What a check found: `state` is ok, warning or bad; `advice` is empty where there is nothing to do."""

    check: str
    state: str
    found: str
    advice: str = ""
