"""A room's periods as a file: its cells and lines, and the download."""

import csv
import io
from typing import Any

import pytest
from conftest import T0, Server
from html_tree import Node, moments_in
from hypothesis import given, settings
from hypothesis import strategies as st

from app.infra.times import format_duration, format_time
from app.queries.answers import Interval
from app.server.page.visibility_file import content_disposition, safe_cell, visibility_csv
from server.page.answers import MINUTE, WINDOW, timeline
from server.page.reading import api, check, check_other_headers, open_room, path_of
from server.page.town import DIARY, HOSTILE

WORDS = ("public", "hidden")

# ---- the file ----


def read_csv(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def test_the_file_has_a_line_for_each_period_in_exact_times() -> None:
    answer = timeline("r", Interval(T0, T0 + MINUTE, True), Interval(T0 + MINUTE, None, False))
    head, *lines = read_csv(visibility_csv(answer))
    assert head == ["room_id", "visibility", "from", "to", "from_ms", "to_ms", "duration_ms"]
    end = T0 + MINUTE
    assert lines == [
        ["r", "public", format_time(T0), format_time(end), str(T0), str(end), str(MINUTE)],
        ["r", "hidden", format_time(end), "", str(end), "", str(9 * MINUTE)],
    ]
    assert visibility_csv(answer).count("\r\n") == 3


def test_an_open_period_from_the_future_has_lasted_no_time() -> None:
    (_, line) = read_csv(visibility_csv(timeline("r", Interval(WINDOW[1] + 5, None, True))))
    assert line[-1] == "0"


def test_a_timeline_of_nothing_is_a_head() -> None:
    assert len(read_csv(visibility_csv(timeline("r")))) == 1


@pytest.mark.parametrize("begin", ["=", "+", "-", "@"])
@pytest.mark.parametrize("blanks", ["", " ", "   ", "\n", "\u00a0", "\u3000 ", "\x0b", " \t ", "\t", "\r", "\r\n"])
def test_no_cell_begins_like_a_formula(begin: str, blanks: str) -> None:
    text = f"{blanks}{begin}cmd|' /C calc'!A0"
    assert safe_cell(text) == f"'{text}"
    (_, line) = read_csv(visibility_csv(timeline(text, Interval(T0, None, True))))
    assert line[0] == f"'{text}"


@pytest.mark.parametrize("text", ["\tcmd", "\rcmd", "\t", "\r\n"])
def test_no_cell_begins_with_a_tab_or_a_carriage_return(text: str) -> None:
    assert safe_cell(text) == f"'{text}"
    (_, line) = read_csv(visibility_csv(timeline(text, Interval(T0, None, True))))
    assert line[0] == f"'{text}"


@pytest.mark.parametrize("text", ["room", "a=1", "1+1", "x@y", "", "'", "é", "a\tb", "room-1"])
def test_other_cells_stay_as_they_are(text: str) -> None:
    assert safe_cell(text) == text


@settings(max_examples=200)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40))
def test_any_room_id_reads_back_from_the_file_and_is_no_formula(room_id: str) -> None:
    lines = read_csv(visibility_csv(timeline(room_id, Interval(T0, T0 + 1, True), Interval(T0 + 1, None, False))))
    assert [len(line) for line in lines] == [7, 7, 7]
    for line in lines[1:]:
        assert line[0] in (room_id, f"'{room_id}")
        assert not line[0].lstrip().startswith(("=", "+", "-", "@"))
        assert not line[0].startswith(("\t", "\r"))


@pytest.mark.parametrize("room_id", ['say "hi", you', "a,b;c", "line\nline", "line\r\nline", '"', ",", "\n"])
def test_quotes_commas_and_newlines_in_a_room_id_stay_in_their_cell(room_id: str) -> None:
    lines = read_csv(visibility_csv(timeline(room_id, Interval(T0, None, True))))
    assert [line[0] for line in lines[1:]] == [room_id]
    assert [len(line) for line in lines] == [7, 7]


UNSEEN = [
    "",
    " ",
    "\t",
    "\u200b",
    "\ufeff",
    "\u2060\u00ad",
    "\u202e",
    "\x00\x1f",
    "\u0301",
    "\ufe0f",
    "\u2800",
    "\u3164",
]


@pytest.mark.parametrize("begin", ["＝", "＋", "－", "＠", "﹦", "﹢", "﹣", "﹫", "⁼", "⁺", "₌", "₊", "−"])
@pytest.mark.parametrize("unseen", UNSEEN)
def test_no_cell_begins_with_a_sign_that_a_spreadsheet_reads_as_one_of_a_formula(unseen: str, begin: str) -> None:
    for text in (f"{unseen}{begin}cmd|x", f"{unseen}{begin}1", f"{unseen}{begin}SUM(1)", f"{unseen} {unseen}{begin}"):
        assert safe_cell(text) == f"'{text}"
    for sign in "=+-@":
        assert safe_cell(f"{unseen}{sign}1") == f"'{unseen}{sign}1"
    assert safe_cell(f"{unseen}a{begin}1") == f"{unseen}a{begin}1" or unseen == "\t"


# ---- the name of the file ----


@pytest.mark.parametrize(
    ("room_id", "plain", "whole"),
    [
        ("late-show", "late-show", "late-show"),
        ("直播间🎤", "____", "%E7%9B%B4%E6%92%AD%E9%97%B4%F0%9F%8E%A4"),
        ("a b", "a_b", "a%20b"),
        ("..", "", ".."),
        ("100%", "100_", "100%25"),
        ('a"b\\c:d', "a_b_c_d", "a_b_c_d"),
        ("x'y;z", "x_y_z", "x%27y%3Bz"),
        ("\u202egnp\r\nSet-Cookie: a", "_gnp__Set-Cookie__a", "_gnp__Set-Cookie_%20a"),
        ("Café", "Caf_", "Caf%C3%A9"),
    ],
)
def test_the_file_is_named_after_its_room_for_new_clients_and_for_old_ones(
    room_id: str, plain: str, whole: str
) -> None:
    disposition = content_disposition(room_id)
    assert disposition == f"attachment; filename=\"visibility-{plain}.csv\"; filename*=UTF-8''visibility-{whole}.csv"
    assert disposition.isascii()


# ---- the download ----


def download(town: Server, link: str, **params: Any) -> list[dict[str, str]]:
    """The lines of the file that a link leads to."""
    response = town.client.get(link, params=params or None)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    check_other_headers(response)
    assert response.content.startswith(b"\xef\xbb\xbfroom_id,")
    return list(csv.DictReader(io.StringIO(response.content.decode("utf-8-sig"), newline="")))


def link_in(page: Node) -> str:
    (link,) = [link.attrs["href"] for link in page.all("a") if "visibility.csv" in link.attrs["href"]]
    return link


def cuts(town: Server) -> list[dict[str, int]]:
    """Every third time of receipt, and some times of the diary."""
    received = [change["received_at_ms"] for change in api(town, DIARY, "/history", limit=500)["changes"]]
    known = [{"known_at": at} for at in received[::15]]
    return [{}, {"as_of": T0 + 9500}, {"as_of": T0 + 30_000}, *known, known[0] | {"as_of": T0 + 30_000}]


def test_the_file_has_the_intervals_of_the_api_at_the_same_times(town: Server) -> None:
    for cut in cuts(town):
        read = download(town, f"{path_of(DIARY)}/visibility.csv", **cut)
        answer = api(town, DIARY, "/visibility", **cut)
        times = [(int(row["from_ms"]), int(row["to_ms"]) if row["to_ms"] else None) for row in read]
        assert times == [(it["from_ms"], it["to_ms"]) for it in answer["intervals"]]
        assert [row["visibility"] == "public" for row in read] == [it["public"] for it in answer["intervals"]]
        assert {row["room_id"] for row in read} == {DIARY}
        lasted = {word: sum(int(row["duration_ms"]) for row in read if row["visibility"] == word) for word in WORDS}
        if "as_of" in cut:
            assert lasted == {"public": answer["public_ms"], "hidden": answer["hidden_ms"]}


def test_the_link_of_a_page_leads_to_what_the_page_shows(town: Server) -> None:
    for cut in cuts(town):
        page = open_room(town, DIARY, **{"at" if name == "as_of" else name: at for name, at in cut.items()})
        shown = page.one("table", class_="periods").one("tbody").all("tr")
        read = download(town, link_in(page))
        assert [moments_in(row)[0] for row in shown] == [int(row["from_ms"]) for row in reversed(read)]
        assert [row.all("td")[0].text for row in shown] == [row["visibility"] for row in reversed(read)]
        lasted = [format_duration(int(row["duration_ms"])) for row in reversed(read)]
        ongoing = 1 if "known_at" not in cut else 0  # goes on between the page and its file
        assert [row.all("td")[3].text for row in shown][ongoing:] == lasted[ongoing:]


def test_the_pages_name_of_a_time_is_taken_too_and_bad_times_are_refused(town: Server) -> None:
    path = f"{path_of(DIARY)}/visibility.csv"
    assert download(town, path, at=T0 + 9500) == download(town, path, as_of=T0 + 9500)
    for params in ({"at": 1, "as_of": 1}, {"known_at": T0 // 1000}, {"as_of": "yesterday"}, {"to": T0}):
        check(town.client.get(path, params=params), 400)
    check(town.client.get(path, params={"as_of": T0 - 1}), 404)
    check(town.client.get(path, params={"known_at": 0}), 404)


@pytest.mark.parametrize("room_id", HOSTILE)
def test_the_name_of_the_file_is_plain_whatever_the_room_is_called(town: Server, room_id: str) -> None:
    response = town.client.get(f"{path_of(room_id)}/visibility.csv")
    assert response.status_code == 200
    assert response.headers["content-disposition"] == content_disposition(room_id)
    (line,) = download(town, f"{path_of(room_id)}/visibility.csv")
    assert not line["room_id"].startswith(("=", "+", "-", "@"))
    assert line["room_id"].removeprefix("'") == room_id
