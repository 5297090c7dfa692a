"""Sessions that were begun, or are asked for, at another time."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from itsdangerous import TimestampSigner


@contextmanager
def signed_at(now_s: float) -> Iterator[None]:
    """Signed cookies are written and read in this process as if it were that time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TimestampSigner, "get_timestamp", lambda _: int(now_s))
        yield
