"""Callbacks that missed their way: sent to another path, or turned into another method by a redirect."""

from collections.abc import Collection

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


def is_callback_path(path: str) -> bool:
    """Whether a path is that of callbacks; a slash too many is not to cost one."""
    return path.startswith("/") and path.strip("/") == "callbacks"


async def is_misdirected(scope: Scope, receive: Receive, form_paths: Collection[str]) -> bool:
    """Whether a callback was sent with a request for another path.

    The body is read only where the query does not tell, and only of a POST that is not for one of `form_paths`.
    """
    if carries_callback(scope["query_string"]):
        return True
    if scope["method"] != "POST" or scope["path"] in form_paths:
        return False
    try:
        return sniff_command(await read_body(scope, receive)) is not None
    except (Refused, HungUp):
        return False
