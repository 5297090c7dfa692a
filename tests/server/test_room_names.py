"""Rooms whose ids clients take for folders, and those that look like how they are written then."""

import subprocess
from collections.abc import Iterator
from urllib.parse import quote, unquote

import pytest
from conftest import T0, Server, body_of, run
from html_tree import read_html
from hypothesis import given
from hypothesis import strategies as st
from kit.deploy import tool

from app.server.room_names import room_id_of, segment_of

PLAIN = ["...", "~x", "~", "~~", "~...", "%2e", "%2e%2e", "%252e", ".x", "..x", "x..", ". ", " .", "r", "a b", "直播间"]
WRITTEN = {".": "~.", "..": "~..", "~.": "~~.", "~..": "~~..", "~~..": "~~~.."}
ROOMS = [*WRITTEN, *PLAIN]
BELOW = ["", "/history", "/change-counts", "/visibility", f"/diff?from={T0 - 1}&to={T0 + 1}"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("names") / "data") as it:
        for room_id in ROOMS:
            body = body_of(room_id, T0, IsPublicVisible=True, RoomName=f"name of {room_id}")
            assert it.post(body).status_code == 200
        yield it


@given(st.text("~.ax%/", max_size=6) | st.sampled_from(ROOMS))
def test_every_room_has_one_segment_that_no_client_drops(room_id: str) -> None:
    segment = segment_of(room_id)
    assert room_id_of(unquote(segment)) == room_id
    assert unquote(segment) not in (".", "..")
    assert "/" not in segment


def test_what_is_sent_as_it_is_means_itself() -> None:
    assert [room_id_of(segment) for segment in (".", "..")] == [".", ".."]


@pytest.mark.parametrize("room_id", ROOMS)
def test_every_route_below_a_room_answers_about_it(server: Server, room_id: str) -> None:
    segment = WRITTEN.get(room_id, quote(room_id, safe=""))
    assert segment_of(room_id) == segment
    for below in BELOW:
        answer = server.client.get(f"/rooms/{segment}{below}").json()
        assert answer.get("room_id", room_id) == room_id
        assert f"name of {room_id}" in str(answer) or below in ("/change-counts", "/visibility")
    assert server.get(f"/rooms/{segment}", known_at="2099-01-01T00:00:00Z")["room_id"] == room_id  # past the shortcut
    page = read_html(server.client.get(f"/room/{segment}").text)
    assert f"name of {room_id}" in page.one("main").raw_text
    for link in page.all("a"):
        address = link.attrs["href"]
        if address.startswith("/room/"):
            assert server.client.get(address).status_code == 200


@pytest.mark.parametrize("room_id", ROOMS)
def test_clients_that_normalise_paths_reach_it_and_so_do_those_that_do_not(server: Server, room_id: str) -> None:
    address = f"{server.url}/rooms/{segment_of(room_id)}"
    raw = f"{server.url}/rooms/{quote(room_id, safe='')}"
    spelled = f"{server.url}/rooms/{''.join(f'%{byte:02x}' for byte in room_id.encode())}/history"
    commands = [[address], ["--path-as-is", address]]
    if not room_id.startswith("~"):  # a tilde before dots is how the dots are written
        commands += [["--path-as-is", raw], ["--path-as-is", spelled]]
    for command in commands:
        done = subprocess.run([tool("curl"), "-sf", *command], capture_output=True, timeout=20, check=False)
        assert done.returncode == 0, command
        assert f"name of {room_id}" in done.stdout.decode(), command


@pytest.mark.parametrize("room_id", ["..", ".", "~x", "~.."])
def test_the_command_line_takes_ids_as_they_are(server: Server, room_id: str) -> None:
    for command in ("room", "history", "visibility", "counts"):
        done = run(command, room_id, "--json", "--data", str(server.data))
        assert done.returncode == 0, done.stderr
        assert b"room_id" in done.stdout or b"changes" in done.stdout
