"""Links lead somewhere, and each file has the form that it promises."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from app.infra.metrics import OUTCOMES
from docs.files import FILES, ROOT, name_of, without_code

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
DECISIONS = sorted((ROOT / "docs" / "explanation" / "decisions").glob("*.md"))
MAX_README_BYTES = 7_000


def anchors_of(path: Path) -> set[str]:
    """The anchors of a file's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", without_code(path.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        anchor = "".join(char for char in text.replace(" ", "-") if char.isalnum() or char in "-_")
        number = 0
        while (numbered := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(numbered)
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for target in LINK.findall(without_code(path.read_text())):
        if re.match(r"[a-z]+://|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / unquote(file)).resolve() if file else path
        assert there.is_relative_to(ROOT), f"{target} leads out of the repository"
        assert there.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in anchors_of(there), f"{target}: no such heading"


def test_every_file_of_the_docs_can_be_reached_from_the_readme() -> None:
    reached, ahead = set[Path](), {ROOT / "README.md"}
    while ahead:
        here = ahead.pop()
        reached.add(here)
        targets = {target.partition("#")[0] for target in LINK.findall(without_code(here.read_text()))}
        there = {(here.parent / unquote(target)).resolve() for target in targets if target.endswith(".md")}
        ahead |= {path for path in there if path.exists()} - reached
    assert {*FILES} <= reached


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= MAX_README_BYTES


def test_the_runbook_has_a_section_for_each_alert_and_each_outcome() -> None:
    runbook = ROOT / "docs" / "how-to" / "runbook.md"
    alerts = re.findall(r"- alert: (\w+)", (ROOT / "deploy" / "prometheus-alerts.yml").read_text())
    sections = re.findall(r"^## (Roomlapse\w+)$", runbook.read_text(), re.MULTILINE)
    assert sections == alerts
    outcomes = {outcome for outcome in OUTCOMES if f"| `{outcome}` |" in runbook.read_text()}
    assert outcomes == {*OUTCOMES} - {"accepted", "duplicate", "blocking", "unavailable"}
    explained = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "reference" / "metrics.md").read_text(), re.MULTILINE)
    assert [name for name in explained if not name.startswith("roomlapse_")] == [*OUTCOMES]


@pytest.mark.parametrize("path", [path for path in DECISIONS if path.name != "README.md"], ids=name_of)
def test_a_decision_has_its_four_headings(path: Path) -> None:
    headings = re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE)
    assert headings == ["Context", "Decision", "Alternatives", "Consequences"]


def test_the_index_of_decisions_names_each() -> None:
    index = (ROOT / "docs" / "explanation" / "decisions" / "README.md").read_text()
    assert {*LINK.findall(index)} == {path.name for path in DECISIONS} - {"README.md"}
