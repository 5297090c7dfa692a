"""A room's periods as a file: its cells and lines, and the download."""

import csv
import io

import pytest
from conftest import T0, Server
from hypothesis import given, settings
from hypothesis import strategies as st

from app.infra.times import format_time
from app.queries.answers import Interval
from app.server.page.visibility_file import safe_cell, visibility_csv
from server.page.answers import MINUTE, WINDOW, timeline
from server.page.reading import api, check_other_headers, open_room, path_of
from server.page.town import DIARY, HOSTILE

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


# ---- the download ----


def test_the_file_has_the_intervals_of_the_api(town: Server) -> None:
    link = next(link for link in open_room(town, DIARY).all("a") if link.attrs["href"].endswith(".csv"))
    response = town.client.get(link.attrs["href"])
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="visibility-diary.csv"'
    check_other_headers(response)
    read = list(csv.DictReader(io.StringIO(response.text, newline="")))
    intervals = api(town, DIARY, "/visibility")["intervals"]
    assert [(int(row["from_ms"]), int(row["to_ms"]) if row["to_ms"] else None, row["visibility"]) for row in read] == [
        (it["from_ms"], it["to_ms"], "public" if it["public"] else "hidden") for it in intervals
    ]
    assert {row["room_id"] for row in read} == {DIARY}


@pytest.mark.parametrize("room_id", HOSTILE)
def test_the_name_of_the_file_is_plain_whatever_the_room_is_called(town: Server, room_id: str) -> None:
    response = town.client.get(f"{path_of(room_id)}/visibility.csv")
    assert response.status_code == 200
    name = response.headers["content-disposition"].removeprefix('attachment; filename="').removesuffix('"')
    assert name.startswith("visibility-")
    assert name.endswith(".csv")
    assert all(char.isascii() and (char.isalnum() or char in "-_.") for char in name)
    assert ".." not in name.removesuffix(".csv") or ".." in room_id[1:]
    (_, line) = csv.reader(io.StringIO(response.text, newline=""))
    assert not line[0].startswith(("=", "+", "-", "@"))
