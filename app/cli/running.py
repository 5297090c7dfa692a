"""Commands that run: the server, the demo, and the simulated sender."""

import logging
import signal
import sys
from pathlib import Path

import rich_click as click

from app.cli import options, tables
from app.cli.demo import run_demo
from app.cli.edge import LoggingCommand
from app.cli.progress import show_progress
from app.infra.errors import Broken
from app.infra.json_logs import set_up_logging
from app.infra.settings import (
    DEFAULT_HOST,
    MIN_TOKEN,
    Settings,
    read_allowed_hosts,
    read_idle_s,
    read_rate_limit,
    read_root_path,
    read_secrets,
    read_trusted_proxies,
)
from app.infra.times import now_ms
from app.log.files import create_log
from app.ops.simulator import Callbacks, Sender
from app.projector.registry import known_projections
from app.projector.upkeep import create_read_models
from app.server.node import Service
from app.server.running import Running, warn_of_library

_log = logging.getLogger(__name__)


@click.command(cls=LoggingCommand, epilog="Example: `roomlapse serve --sdk-app-id 1400000000 --data ./roomlapse-data`")
@click.option(
    "--sdk-app-id",
    type=options.APP_ID,
    required=True,
    envvar="ROOMLAPSE_SDK_APP_ID",
    show_envvar=True,
    help="Your application's SDKAppID; callbacks of others are refused.",
)
@click.option(
    "--host",
    default=DEFAULT_HOST,
    envvar="ROOMLAPSE_HOST",
    show_default=True,
    show_envvar=True,
    help="The address to listen on; another than this machine's own needs tokens.",
)
@options.port(envvar="ROOMLAPSE_PORT", show_envvar=True)
@options.data
@click.option(
    "--root-path",
    metavar="PATH",
    default="",
    envvar="ROOMLAPSE_ROOT_PATH",
    show_envvar=True,
    help="The path under which a proxy shows the server, as /tools/rooms.",
)
@click.option("--insecure", is_flag=True, help="Serve other machines without tokens.")
def serve(sdk_app_id: str, host: str, port: int, data: Path, root_path: str, insecure: bool) -> None:
    """Run the receiver and the queries, with the projector beside them.

    Secrets come from the environment: ROOMLAPSE_CALLBACK_TOKENS (comma-separated), ROOMLAPSE_API_TOKEN and
    ROOMLAPSE_ADMIN_TOKEN, or from files named by the same names with _FILE behind them.
    """
    secrets = read_secrets()
    set_up_logging(secrets.all())
    warn_of_library()
    if notice := options.former_data_notice(data):
        _log.warning(notice)
    settings = Settings(
        sdk_app_id,
        data,
        host,
        port,
        secrets,
        insecure,
        read_allowed_hosts(),
        read_rate_limit(),
        read_root_path({"ROOMLAPSE_ROOT_PATH": root_path}),
        read_trusted_proxies(),
        read_idle_s(),
    )
    settings.check()
    _warn_of_tokens(settings)
    known_projections()  # what is wrong with their folder is said before any file is made
    service = Service(settings)
    create_log(service.data_dir, sdk_app_id)  # what is wrong with it is said before anything listens
    create_read_models(service.data_dir)
    running = Running(service)
    running.run()
    if running.failed:
        raise Broken("the server did not start: the lines above say why")


def _warn_of_tokens(settings: Settings) -> None:
    if not settings.secrets.callback_tokens:
        _log.warning("no callback token is set: anyone who reaches this address can send callbacks")
    if any(len(token) < MIN_TOKEN for token in settings.secrets.callback_tokens):
        _log.warning(
            "a callback token has less than %d characters: anyone who guesses it can send callbacks", MIN_TOKEN
        )
    if settings.secrets.api_token is None:
        _log.warning("no API token is set: anyone who reaches this address can ask")


@click.command(cls=LoggingCommand, epilog="Example: `roomlapse demo --for 60`")
@options.port()
@click.option("--for", "for_s", type=click.FloatRange(min=0.1), help="End after so many seconds; else with Ctrl-C.")
def demo(port: int, for_s: float | None) -> None:
    """Load a sample evening, run the server on it, and let a simulated sender add to it."""
    run_demo(port, for_s)


@click.command(epilog="Example: `roomlapse simulate --url http://127.0.0.1:8000 --sdk-app-id 1400000000 --count 50`")
@click.option(
    "--url", type=options.URL, required=True, help="The receiver: http://127.0.0.1:8000, or its full callback URL."
)
@click.option(
    "--sdk-app-id",
    type=options.APP_ID,
    required=True,
    envvar="ROOMLAPSE_SDK_APP_ID",
    show_envvar=True,
    help="The SDKAppID that the callbacks carry.",
)
@click.option("--rate", type=click.FloatRange(min=0.01), default=10.0, show_default=True, help="Callbacks a second.")
@click.option("--count", type=click.IntRange(min=1), default=100, show_default=True, help="How many in all.")
@click.option("--rooms", type=click.IntRange(min=1), default=12, show_default=True, help="How many rooms they are of.")
@click.option("--seed", type=int, default=1, show_default=True, help="Equal seeds choose the same rooms and changes.")
@click.option("--duplicates", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Part sent twice.")
@click.option("--late", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Part with an older time.")
@options.as_json
def simulate(
    url: str,
    sdk_app_id: str,
    rate: float,
    count: int,
    rooms: int,
    seed: int,
    duplicates: float,
    late: float,
    as_json: bool,
) -> None:
    """Send seeded callbacks to a receiver, signed with the first of ROOMLAPSE_CALLBACK_TOKENS if there is one.

    Like the real sender it waits 2 s for an answer and sends nothing twice on its own.
    """
    tokens = read_secrets().callback_tokens
    sender = Sender(url, sdk_app_id, tokens[0] if tokens else None, rate)
    signal.signal(signal.SIGTERM, lambda number, frame: sender.stop())
    with show_progress("sending") as progress:
        callbacks = Callbacks(seed, rooms, duplicates, late, now_ms)
        sent = sender.send(iter(callbacks), count, lambda answered: progress(answered, count))
    tables.print_answer(as_json, sent, tables.print_sent)
    if sent.ok != sent.sent:
        sys.exit(1)
