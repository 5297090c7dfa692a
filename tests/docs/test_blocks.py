"""Blocks that programs write: only what stands between the markers changes."""

import json

import pytest
from faults.table import matrix

from docs.files import block_in, blocks_in, with_block

TEXT = "before\n\n<!-- begin one: `tool` writes this -->\n\nold\n\n<!-- end one -->\n\nafter\n"


def test_a_block_is_replaced_and_all_else_stays() -> None:
    text = with_block(TEXT, "one", r"new \1 text")
    assert text == TEXT.replace("old", r"new \1 text")
    assert block_in(text, "one") == r"new \1 text"
    assert with_block(text, "one", r"new \1 text") == text
    assert blocks_in(text) == ["one"]


def test_a_block_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError, match="no block 'two'"):
        with_block(TEXT, "two", "new")


def test_the_fault_matrix_keeps_the_last_report_of_each_fault() -> None:
    reports = [(2, "power", "5 cuts"), (1, "kill", "1 kill"), (1, "kill", "9 kills")]
    lines = [{"row": row, "fault": fault, "ran": ran, "lost": "0", "refused": "-"} for row, fault, ran in reports]
    assert matrix("\n".join(map(json.dumps, lines))).splitlines() == [
        "| row | fault | ran | lost | refused |",
        "|---|---|---|---|---|",
        "| 1 | kill | 9 kills | 0 | - |",
        "| 2 | power | 5 cuts | 0 | - |",
    ]
