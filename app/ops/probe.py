"""Asks a running server over HTTP what its metrics, its readiness and its log's end are."""

import http.client
import urllib.error
import urllib.request
from contextlib import suppress

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from app.infra.settings import Secrets

_TIMEOUT_S = 5.0
_NO_SERVER = "start it, or say where it is with --url, and give this command its tokens: some checks need it"
_GIVE_TOKENS = "give this command the server's tokens, in its environment: ROOMLAPSE_API_TOKEN, ROOMLAPSE_ADMIN_TOKEN"

Metrics = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values by name and sorted labels."""


class Probe(msgspec.Struct):
    """What a server answered. `metrics` is None if it could not be asked: `problem` and `advice` say why."""

    url: str
    metrics: Metrics | None
    problem: str = ""
    advice: str = ""
    head: int = 0
    chain: str = ""
    unready: str = ""
    """Why the server is not ready, in one line; empty if it is."""

    def value(self, name: str, **labels: str) -> float:
        """A metric's value, 0 if there is none."""
        return (self.metrics or {}).get((name, tuple(sorted(labels.items()))), 0.0)

    def answered_within_s(self, part: float) -> float:
        """The upper bound of the histogram's bucket that holds this part of the answers to callbacks."""
        buckets = sorted(
            (float(dict(labels)["le"]), value)
            for (name, labels), value in (self.metrics or {}).items()
            if name == "roomlapse_answer_seconds_bucket"
        )
        count = self.value("roomlapse_answer_seconds_count")
        return next(bound for bound, value in buckets if value >= part * count)


class _Status(msgspec.Struct):
    head: int
    chain: str


class _Ready(msgspec.Struct):
    ready: bool = False
    lag: dict[str, int] = {}
    stopped: dict[str, str] = {}
    waiting: str | None = None
    failure: str | None = None

    def why_not(self) -> str:
        if self.ready:
            return ""
        reasons = [reason for reason in (self.failure, self.waiting, *self.stopped.values()) if reason]
        return "; ".join(reasons) or f"the read models are {max(self.lag.values(), default=0)} events behind"


def probe(url: str, secrets: Secrets) -> Probe:
    """Ask the server at a URL. Raises nothing: what goes wrong is in the answer."""
    try:
        metrics = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(_get(url, "/metrics", secrets).decode())
            for sample in family.samples
        }
        if ("roomlapse_log_writable", ()) not in metrics:
            return Probe(url, None, f"what answers at {url} is no Roomlapse", _NO_SERVER)
        ready = msgspec.json.decode(_get(url, "/readyz", secrets, also=503), type=_Ready)
        if not ready.ready and ready.failure is not None:
            return Probe(url, metrics, unready=ready.why_not())
        status = msgspec.json.decode(_get(url, "/status", secrets), type=_Status)
    except urllib.error.HTTPError as error:
        with suppress(OSError):
            error.close()
        advice = _GIVE_TOKENS if error.code in (401, 403) else "see its log"
        return Probe(url, None, f"{error.url} answers {error.code}", advice)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Probe(url, None, f"no answer from {url}: {getattr(error, 'reason', error)}", _NO_SERVER)
    return Probe(url, metrics, head=status.head, chain=status.chain, unready=ready.why_not())


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: it would take the token to another server."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)


def _get(url: str, path: str, secrets: Secrets, also: int = 200) -> bytes:
    """The body of an answer with status 200 or `also`; another status raises HTTPError."""
    request = urllib.request.Request(f"{url}{path}")  # noqa: S310  the command line has checked that it is http
    token = secrets.admin_token or secrets.api_token
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with _OPENER.open(request, timeout=_TIMEOUT_S) as answer:
            body: bytes = answer.read()
    except urllib.error.HTTPError as error:
        if error.code != also:
            raise
        with error:
            body = error.read()
    return body
