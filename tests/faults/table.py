"""Writes the fault matrix into docs/faults.md, from what the tests have last reported, and prints it."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # run as a file, it does not know of its package

from docs.files import ROOT, with_block

RESULTS = Path(__file__).parent / "results.jsonl"
DOCUMENT = ROOT / "docs" / "faults.md"
COLUMNS = ("row", "fault", "ran", "lost", "refused")


def matrix(reports: str) -> str:
    """The matrix in Markdown; `reports`: a JSON object a line, of which the last one of a row and fault counts."""
    latest = {}
    for text in reports.splitlines():
        line = json.loads(text)
        latest[line["row"], line["fault"]] = line
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(str(line[column]) for column in COLUMNS)} |" for _, line in sorted(latest.items())]
    return "\n".join(lines)


def main() -> int:
    """Print the matrix, and write it into the documentation if `--write` is given; 1 if no test has reported yet."""
    if not RESULTS.exists():
        print("no results yet: make test-faults", file=sys.stderr)
        return 1
    table = matrix(RESULTS.read_text())
    print(table)
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(with_block(DOCUMENT.read_text(), "faults", table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
