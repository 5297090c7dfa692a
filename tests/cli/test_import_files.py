"""What a file to import may look like; what is refused whole is said by its name, and nothing of it is stored."""

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import T0, body_of
from hypothesis import given
from hypothesis import strategies as st
from kit.program import PROGRAM, environment, run

from app.ops.import_files import MAX_LINE_BYTES
from app.ops.json_values import Broken, Value
from cli.commands import ask, command, count, roomlapse

NUMBER = 5
OBJECTS: list[Any] = [
    json.loads(body_of("r", T0 + number, RoomName=f'"{{[,]}}\\ 房 {number}')) for number in range(NUMBER)
]
WRAPPED: list[Any] = [{"received_at_ms": T0 + 1000 + number, "body": it} for number, it in enumerate(OBJECTS)]
LINES = b"".join(json.dumps(it).encode() + b"\n" for it in OBJECTS)
ACCEPTED = f"accepted {NUMBER}, duplicates 0, rejected 0\n".encode()


def text_of(value: Any, **how: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, **how).encode()


READ: dict[str, bytes] = {
    "a BOM": b"\xef\xbb\xbf" + LINES,
    "a BOM in the middle, of files put together": LINES[: LINES.index(b"\n") + 1]
    + b"\xef\xbb\xbf"
    + LINES[LINES.index(b"\n") + 1 :],
    "gzip": gzip.compress(LINES),
    "gzip, a BOM": gzip.compress(b"\xef\xbb\xbf" + LINES),
    "two gzip files put together": gzip.compress(LINES[:200]) + gzip.compress(LINES[200:]),
    "an array on one line": text_of(OBJECTS),
    "an array on one line, with a BOM and a line break": b"\xef\xbb\xbf" + text_of(OBJECTS) + b"\n",
    "an array, pretty-printed": text_of(OBJECTS, indent=2),
    "an array, an element a line": b"[\n" + b",\n".join(text_of(it) for it in OBJECTS) + b"\n]\n",
    "an array, an element a line, commas first": b"[" + b"\n,".join(text_of(it) for it in OBJECTS) + b"\n]",
    "an array, in gzip": gzip.compress(text_of(OBJECTS, indent=1)),
    "an array behind blank lines": b"\n \r\n" + text_of(OBJECTS),
    "an array of lines as export writes them": text_of(WRAPPED, indent="\t"),
    "objects, pretty-printed": b"\n".join(text_of(it, indent=2) for it in OBJECTS),
    "objects, pretty-printed, CR LF": b"\n".join(text_of(it, indent=2) for it in OBJECTS).replace(b"\n", b"\r\n"),
    "wrapped objects, pretty-printed": b"\n".join(text_of(it, indent=2) for it in WRAPPED),
    "the body of a line on a line of its own": b"".join(
        b'{"received_at_ms": 1,\n"body":\n' + text_of(it) + b"\n}\n" for it in OBJECTS
    ),
}


PIPED = ["a BOM", "gzip", "an array on one line", "an array, in gzip", "objects, pretty-printed"]


@pytest.mark.parametrize(("what", "piped"), [*((what, False) for what in READ), *((what, True) for what in PIPED)])
def test_a_file_is_read_whole(what: str, piped: bool, tmp_path: Path) -> None:
    content, data = READ[what], tmp_path / "data"
    if piped:
        done = run("import", "-", "--data", str(data), stdin=content)
    else:
        (tmp_path / "file").write_bytes(content)
        done = command(data, "import", str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (0, ACCEPTED), done
    assert ask(data, "room", "r")["room_info"] == {
        name: value for name, value in OBJECTS[-1]["RoomInfo"].items() if name != "RoomId"
    }
    assert command(data, "verify").returncode == 0


ARRAY = text_of(OBJECTS, indent=2)
REFUSED: dict[str, tuple[bytes, str]] = {
    "UTF-16": (LINES.decode().encode("utf-16"), "UTF-16"),
    "UTF-16 LE without a mark": (LINES.decode().encode("utf-16-le"), "UTF-16"),
    "UTF-16 BE without a mark": (LINES.decode().encode("utf-16-be"), "UTF-16"),
    "UTF-32": (LINES.decode().encode("utf-32"), "UTF-32"),
    "UTF-32 BE without a mark": (LINES.decode().encode("utf-32-be"), "UTF-32"),
    "UTF-16 in gzip": (gzip.compress(LINES.decode().encode("utf-16")), "UTF-16"),
    "an array that ends early": (ARRAY[:-3], "is a JSON array that ends in the middle, behind element 4"),
    "an array that ends behind a comma": (ARRAY[: ARRAY.rindex(b",\n  {") + 1], "ends in the middle, behind element 4"),
    "an array without its end": (ARRAY.rstrip(b"]\n "), "ends in the middle, behind element 5"),
    "an array, broken": (ARRAY.replace(b'"EventTime":', b'"EventTime"', 1), "is broken behind element 0"),
    "an array with two commas": (b"[" + LINES.splitlines()[0] + b",," + LINES.splitlines()[1] + b"]", "element 1"),
    "an array without commas": (b"[\n" + LINES + b"]", "is broken behind element 1"),
    "an array with a comma too many": (text_of(OBJECTS)[:-1] + b",]", "is broken behind element 5"),
    "an array and lines": (text_of(OBJECTS[:2]) + b"\n" + LINES, "something behind it"),
    "two arrays": (text_of(OBJECTS[:2]) + b"\n" + text_of(OBJECTS[2:]), "something behind it"),
    "arrays in arrays without an end": (b"[" * 100_000, "is broken behind element 0"),
    "a gzip file, cut in its first part": (gzip.compress(LINES)[:-20], "ends in the middle of its gzip data"),
    "an array in a gzip file that is cut": (gzip.compress(ARRAY)[:-9], "ends in the middle"),
    "a gzip file, damaged": (gzip.compress(LINES, 0).replace(b"Callback", b"callback"), "damaged"),
    "a database": (b"SQLite format 3\0" + b"x" * 100, "a SQLite database"),
    "zstd": (b"\x28\xb5\x2f\xfd" + b"x" * 100, "zstd"),
    "zip": (b"PK\x03\x04" + b"x" * 100, "zip"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_read_is_refused_whole_and_named(what: str, tmp_path: Path) -> None:
    content, words = REFUSED[what]
    data, file = tmp_path / "data", tmp_path / "file"
    file.write_bytes(content)
    for args, stdin, name in ((("import", str(file)), b"", str(file)), (("import", "-"), content, "stdin")):
        piped = stdin and what in ("UTF-16 in gzip", "an array that ends early", "an array in a gzip file that is cut")
        done = (run if piped else roomlapse)(*args, "--data", str(data), stdin=stdin)
        said = done.stderr.decode()
        assert (done.returncode, done.stdout) == (1, b""), done
        assert said.startswith(f"Error: {name} "), said
        assert words in said
        assert said.count("\n") == 1
        assert count(data / "events.db", "events") == 0


def test_a_gzip_file_that_is_cut_behind_much_says_so(tmp_path: Path) -> None:
    lines = b"".join(body_of(f"r{number % 7}", T0 + number) + b"\n" for number in range(3000))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(lines)[:-100])
    done = run("import", str(tmp_path / "cut.gz"), "--data", str(tmp_path / "data"))
    assert (done.returncode, b"ends in the middle of its gzip data" in done.stderr) == (1, True), done
    (tmp_path / "whole.gz").write_bytes(gzip.compress(lines))
    done = run("import", str(tmp_path / "whole.gz"), "--data", str(tmp_path / "data"))
    assert done.returncode == 0
    assert count(tmp_path / "data" / "events.db", "events") == 3000


GOOD = LINES.splitlines(keepends=True)
REJECTED_IN_PART: dict[str, tuple[bytes, int, list[int]]] = {
    "a line that was cut off in a string": (b'{"CallbackCommand":"Li\n' + LINES, 5, [1]),
    "a line that was cut off behind a comma": (GOOD[0] + b'{"a":1,\n' + b"".join(GOOD[1:]), 5, [2]),
    "a line that was cut off behind a colon takes the next one with it": (b'{"a":\n' + LINES, 4, [1]),
    "a last line that was cut off": (LINES + b'{"a":1,', 5, [6]),
    "an array over lines among lines": (
        GOOD[0] + b"[\n" + GOOD[1].strip() + b",\n" + GOOD[2] + b"]\n" + GOOD[3],
        2,
        [2],
    ),
    "an array on a line among lines": (GOOD[0] + b"[" + GOOD[1].strip() + b"]\n" + GOOD[2], 2, [2]),
    "an object over lines with another in it": (b'{"x":{}\n,"y":[\n' + GOOD[1] + b"]}\n" + GOOD[0], 1, [1]),
    "a pretty-printed object that is no callback": (b'{\n "a": 1\n}\n' + LINES, 5, [1]),
    "a long object over lines": (
        b'{"a":[\n'
        b'"' + b"x" * 1000 + b'",\n' + (b'"' + b"y" * 1000 + b'",\n') * (MAX_LINE_BYTES // 900) + b"1]}\n" + LINES,
        5,
        [1],
    ),
}


@pytest.mark.parametrize("what", REJECTED_IN_PART)
def test_no_part_of_a_value_is_taken_for_another_and_the_lines_behind_are_read(what: str, tmp_path: Path) -> None:
    content, accepted, lines = REJECTED_IN_PART[what]
    done = command(tmp_path / "data", "import", "-", "--json", stdin=content)
    counts = json.loads(done.stdout)
    assert [it["line"] for it in counts["rejected_lines"]] == lines
    assert (done.returncode, counts["accepted"]) == (1, accepted)


def test_elements_of_an_array_are_counted_as_lines(tmp_path: Path) -> None:
    content = text_of([OBJECTS[0], {"a": 1}, OBJECTS[1], 7, "x", None, [OBJECTS[2]], [], {}], indent=1)
    done = command(tmp_path / "data", "import", "-", "--json", stdin=content)
    counts = json.loads(done.stdout)
    assert (done.returncode, counts["accepted"]) == (1, 2)
    assert [it["line"] for it in counts["rejected_lines"]] == [2, 4, 5, 6, 7, 8, 9]
    empty = command(tmp_path / "data", "import", "-", stdin=b" [ ] ")
    assert (empty.returncode, empty.stdout) == (0, b"accepted 0, duplicates 0, rejected 0\n")


def test_lines_are_taken_while_a_pipe_is_still_open(tmp_path: Path) -> None:
    """Somebody may follow a file, line by line: the first line alone says what the rest is."""
    process = subprocess.Popen(
        [PROGRAM, "import", "-", "--data", str(tmp_path / "data")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdin is not None
    for line in GOOD:
        process.stdin.write(line)
        process.stdin.flush()
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, ACCEPTED)


# ---- where a value ends ----

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
WRITERS: list[Callable[[Any], str]] = [json.dumps, lambda it: json.dumps(it, indent=1, ensure_ascii=False)]


@given(value=JSON, writer=st.sampled_from(WRITERS), data=st.data())
def test_a_value_ends_where_it_ends_however_it_is_cut_into_pieces(
    value: Any, writer: Callable[[Any], str], data: st.DataObject
) -> None:
    text = writer(value).encode(errors="surrogatepass")
    behind = data.draw(st.sampled_from([b" ", b",", b"]", b"\n{}"]))
    whole = text + behind
    followed, at, end = Value(), 0, None
    while end is None:
        size = data.draw(st.integers(1, len(whole)))
        piece = whole[at : at + size]
        assert piece, "the end was passed"
        if (found := followed.follow(piece)) is not None:
            end = at + found
        at += size
    assert end == len(text)


@given(value=JSON, data=st.data())
def test_a_value_that_lost_or_got_a_bracket_does_not_end_in_the_same_place(value: Any, data: st.DataObject) -> None:
    text = json.dumps([value, {"a": value}]).encode()
    place = data.draw(st.sampled_from([at for at, byte in enumerate(text) if byte in b"[]{}:,"]))
    cut = text[:place] + text[place + 1 :]
    try:
        end = Value().follow(cut)
    except Broken:
        return
    if end == len(cut):  # it was in a string, or is another value now
        json.loads(cut)
