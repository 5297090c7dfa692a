"""The page of the server's health, and the banners that every page has."""

from pathlib import Path

import httpx
import msgspec
from conftest import T0, Server, StartServer, body_of
from html_tree import Node, moments_in, rows_of
from kit.wait import wait_until

from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.infra.texts import visible
from app.projector.upkeep import open_read_models
from server.page.reading import banners, check, open_page, path_of, sign_in
from server.page.town import DIARY, GUARDED, MARKUP, READ_TOKEN, REFUSED

# ---- health ----


def test_health_shows_the_log_the_projections_and_the_delays(town: Server) -> None:
    status = town.get("/status")
    page = open_page(town, "/health")
    numbers = {it.one("dt").text: it.one("dd").text for it in page.one("dl", class_="numbers").all("div")}
    assert numbers["Log head"] == f"{status['head']:,}"
    assert numbers["Quarantined"] == str(len(REFUSED))
    assert numbers["Duplicates"] == str(status["duplicates"])
    assert int(numbers["Refused since the server started"].replace(",", "")) >= len(REFUSED)
    assert int(numbers["Answered OK since the server started"].replace(",", "")) >= status["head"]
    assert status["chain"] in page.text
    projections, refusals, delays, _ = page.all("table")
    assert sum(int(row[1].replace(",", "")) for row in rows_of(refusals)) >= len(REFUSED)
    assert "127.0.0.1" in refusals.text
    assert {row[0]: row[4] for row in rows_of(projections)} == dict.fromkeys(status["projections"], "running")
    assert sum(int(row[1].replace(",", "")) for row in rows_of(delays)) == status["head"]


def test_what_was_refused_is_shown_as_text_newest_first(town: Server) -> None:
    page = open_page(town, "/health")
    rejected = town.get("/rejected")["rejected"]
    rows = page.one("table", class_="quarantine").one("tbody").all("tr")
    assert len(rows) == len(REFUSED)
    for row, one in zip(rows, rejected, strict=True):
        as_text, in_base64 = row.all("pre")
        assert as_text.raw_text == visible(one["body"][:4000])
        assert in_base64.raw_text == one["body_base64"][:6000]
        assert one["reason"] in row.text
        assert moments_in(row) == [one["received_at_ms"]]
    assert "\u202e" not in page.raw_text


# ---- banners ----


def test_a_receiver_of_unsigned_callbacks_says_so_on_every_page(town: Server) -> None:
    for path, status_code in [
        ("/", 200),
        (path_of(DIARY), 200),
        ("/health", 200),
        ("/room/nobody", 404),
        ("/?x=1", 400),
    ]:
        (banner,) = banners(open_page(town, path, status_code))
        assert banner.startswith("Callbacks are not signed")


def stop_projection(data: Path, name: str, error: str) -> None:
    """Leave in the read models what a projection leaves there that an event has stopped."""
    models = open_read_models(DataDir(data))
    with sqlite.transaction(models.conn):
        models.save_checkpoint(name, msgspec.structs.replace(models.checkpoint(name), error=error))
    models.close()


def test_a_projection_that_stands_still_is_told_to_members_on_every_page_and_to_nobody_else(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(env=GUARDED)
    assert server.post(body_of("r", T0, RoomName="n")).status_code == 200
    with httpx.Client(base_url=server.url, timeout=30) as client:
        sign_in(client, READ_TOKEN)
        check(client.get("/room/r"))
        stop_projection(tmp_path / "data", "visibility", f"visibility stopped at position 1: {MARKUP}")
        assert server.post(body_of("r", T0 + 1, RoomName="m")).status_code == 200
        said = f"The projection visibility has stopped: visibility stopped at position 1: {MARKUP}"

        def page_that_says_it() -> Node | None:
            page = check(client.get("/health"))
            return page if said in banners(page) else None

        page = wait_until(page_that_says_it)
        assert page is not None
        (row,) = page.all("table")[0].all("tr", class_="bad")
        assert row.one("th").text == "visibility"
        assert row.all("td")[-1].text == f"visibility stopped at position 1: {MARKUP}"
        for path in ("/", "/room/r", "/room/r/visibility.csv"):
            page = check(client.get(path), 503)
            assert page.one("h1").text == "Unavailable"
            assert said in banners(page)
    with httpx.Client(base_url=server.url, timeout=30) as stranger:
        for path in ("/sign-in", "/static/nothing"):
            response = stranger.get(path)
            assert banners(check(response, response.status_code)) == []
            assert "position 1" not in response.text
