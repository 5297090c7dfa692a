"""Structured logs on stderr: one JSON object a line, whatever is in it. Never a Sign, a token, a query or a body."""

import json
import logging
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "color_message", "asctime"}


_SIGN = re.compile(r"(?i)(\bsign=)[0-9a-z%+]+")
_REDACTED = "[redacted]"


class JsonFormatter(logging.Formatter):
    """Writes a record and whatever was given as `extra` as one line of JSON."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """`secrets` are taken out of every line, wherever they turn up: in an error of a library, say."""
        super().__init__()
        # The longest first, so that none is left over that holds another.
        written = sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, written))) if written else None

    def format(self, record: logging.LogRecord) -> str:
        """Write the line, in ASCII: JSON escapes whatever a terminal or a log reader could act on."""
        own = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        said = {"message": record.getMessage()}
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        more = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        finite = json.loads(
            json.dumps(more, default=str, skipkeys=True), parse_constant=lambda _: None
        )  # NaN is not JSON
        # These names stay as they are, whatever the secrets: a line is to be readable.
        return json.dumps(own | {name: self._redacted(text) for name, text in said.items()} | self._redacted(finite))

    def _redacted(self, value: Any) -> Any:
        """A JSON value without the secrets. Of the text it is written as, one could hit an escape."""
        if isinstance(value, dict):
            return {self._redacted(name): self._redacted(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._redacted(inner) for inner in value]
        if not isinstance(value, str):
            return value
        if self._secrets is not None:
            value = self._secrets.sub(_REDACTED, value)
        return _SIGN.sub(rf"\1{_REDACTED}", value)


def _forms(secret: str) -> set[str]:
    """Write a secret as it may stand in a text: as it is, and as Python or JSON quotes it."""
    quoted = (repr(secret), ascii(secret), json.dumps(secret), json.dumps(secret, ensure_ascii=False))
    return {secret, *(text[1:-1] for text in quoted)}


def set_up_logging(secrets: Iterable[str] = (), level: int = logging.INFO) -> None:
    """Send every logger's records to stderr as JSON lines, with the secrets taken out."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # we say ourselves when we listen and stop
    logging.getLogger("uvicorn.error").setLevel(
        logging.ERROR
    )  # a warning for each malformed request: anybody's to send
    logging.getLogger("uvicorn.access").disabled = True  # its lines would hold each callback's Sign
