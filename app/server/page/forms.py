"""Forms that the page sends: signing in and out."""

import re
from typing import Any
from urllib.parse import parse_qs, unquote

from litestar import Request
from litestar.exceptions import PermissionDeniedException

from app.infra.errors import BadQuestion

_MAX_FORM_BYTES = 4096


def own_path(path: str, root: str = "") -> str:
    """A path on this server to go on to, as browsers know it; the list of rooms if it is anything else."""
    begin = f"{root}/"
    own = path.startswith(begin) and path[len(begin) : len(begin) + 1] not in ("/", "\\")
    plain = path.isascii() and path.isprintable()
    # Browsers take these for folders, also escaped: they would lead out of the root.
    segments = re.split(r"[/\\]", re.split(r"[?#]", path)[0])
    return path if own and plain and not {".", ".."} & {unquote(segment) for segment in segments} else begin


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
