"""Prints the fault matrix as a Markdown table, from what the tests have last reported."""

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results.jsonl"
COLUMNS = ("row", "fault", "ran", "lost", "refused")


def main() -> int:
    """Print it; 1 if no test has reported anything yet."""
    if not RESULTS.exists():
        print("no results yet: make test-faults", file=sys.stderr)
        return 1
    latest = {}
    for text in RESULTS.read_text().splitlines():
        line = json.loads(text)
        latest[line["row"], line["fault"]] = line
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"|{'---|' * len(COLUMNS)}")
    for _, line in sorted(latest.items()):
        print(f"| {' | '.join(str(line[column]) for column in COLUMNS)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
