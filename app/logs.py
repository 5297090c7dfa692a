"""Structured logs on stderr: one JSON object a line, whatever is in it. Never a Sign, a token, a query or a body."""

import json
import logging
import sys
from datetime import UTC, datetime

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "color_message", "asctime"}


class JsonFormatter(logging.Formatter):
    """Writes a record and whatever was given as `extra` as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line, in ASCII: JSON escapes whatever a terminal or a log reader could act on."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        finite = json.loads(
            json.dumps(line, default=str, skipkeys=True), parse_constant=lambda _: None
        )  # NaN is not JSON
        return json.dumps(finite)


def set_up_logging(level: int = logging.INFO) -> None:
    """Send every logger's records to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # we say ourselves when we listen and stop
    logging.getLogger("uvicorn.access").disabled = True  # its lines would hold each callback's Sign
