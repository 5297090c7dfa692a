"""Callbacks that missed their way: sent to another path, or turned into another method by a redirect."""

from app.infra.asgi import Receive, Scope
from app.receiver.body import HungUp, read_body
from app.tencent.request import Refused, carries_callback, sniff_command

OTHER_PATH = Refused(
    404, "callbacks are taken at /callbacks alone: mend the callback URL in the console", "misdirected"
)
OTHER_METHOD = Refused(
    405,
    "send callbacks with POST: a redirect on the way turns it into another method, so give the console the URL that it"
    " leads to",
    "misdirected",
)
_FORM = b"application/x-www-form-urlencoded"


def is_callback_path(path: str) -> bool:
    """Whether a path is that of callbacks; a slash too many is not to cost one."""
    return path.startswith("/") and path.strip("/") == "callbacks"


async def is_misdirected(scope: Scope, receive: Receive) -> bool:
    """Whether a callback was sent with a request for another path.

    The body is read only where the query does not tell, and only of a POST that sends no form.
    """
    return carries_callback(scope["query_string"]) or (scope["method"] == "POST" and await _posts_one(scope, receive))


async def _posts_one(scope: Scope, receive: Receive) -> bool:
    if any(name == b"content-type" and _FORM in value.lower() for name, value in scope["headers"]):
        return False
    try:
        return sniff_command(await read_body(scope, receive)) is not None
    except (Refused, HungUp):
        return False
