"""Forms that the page sends: signing in and out."""

from typing import Any
from urllib.parse import parse_qs

from litestar import Request
from litestar.exceptions import PermissionDeniedException

from app.infra.errors import BadQuestion

_MAX_FORM_BYTES = 4096


def own_path(path: str) -> str:
    """A path on this server to go on to; the list of rooms if it is anything else."""
    own = path.startswith("/") and path[1:2] not in ("/", "\\")
    return path if own and path.isascii() and path.isprintable() else "/"


def refuse_other_sites(request: Request[Any, Any, Any]) -> None:
    """Raise PermissionDeniedException for a form that stands on another site's page."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "null")
    # Our own pages send no referrer, and with that no origin; browsers say where a form stood in another header.
    others = origin not in ("null", "") and origin.partition("://")[2] != request.headers.get("host", "")
    if site not in ("same-origin", "none") if site is not None else others:
        raise PermissionDeniedException("this form was sent from another site")


async def read_form(request: Request[Any, Any, Any]) -> dict[str, str]:
    """Read a small form; of a name that comes twice the first value. Raises BadQuestion."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            raise BadQuestion("the form is too large")
    return {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
