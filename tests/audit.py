"""Looks up every locked dependency in the databases of known vulnerabilities, with pip-audit.

Exit 1 if one is found, or, with --strict, if a dependency could not be looked up. Where no database can be reached the
answer is unknown, and this says so: a gate that fails without a network would only be switched off.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SERVICES = ("pypi", "osv")
_LONGEST_S = 120


def look_up(lock: Path, service: str) -> tuple[list[dict[str, Any]], str]:
    """What a service says of each dependency of a lock file; and why not, if it says nothing."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service, "--progress-spinner", "off"]
    command += ["--disable-pip", "--require-hashes", "--format", "json", "--requirement", str(lock)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
    except subprocess.TimeoutExpired:
        return [], f"no answer within {_LONGEST_S} s"
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return [], (done.stderr.strip().splitlines() or ["no answer"])[-1][:200]
    return found, ""


def main() -> int:
    """Ask one service after the other until one knows something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lock", type=Path)
    parser.add_argument("--strict", action="store_true", help="fail if a dependency could not be looked up")
    args = parser.parse_args()
    unknown: list[str] = []
    for service in SERVICES:
        found, problem = look_up(args.lock, service)
        vulnerable = [dependency for dependency in found if dependency.get("vulns")]
        for dependency in vulnerable:
            names = ", ".join(vulnerability["id"] for vulnerability in dependency["vulns"])
            print(f"{dependency['name']} {dependency['version']}: {names}")
        if vulnerable:
            return 1
        unknown = [dependency["name"] for dependency in found if "skip_reason" in dependency]
        if len(unknown) < len(found):
            break
        print(f"audit: {service} knows nothing of these dependencies{problem and f': {problem}'}", file=sys.stderr)
    else:
        print("audit: NOT DONE, no database of vulnerabilities can be reached from here", file=sys.stderr)
        return 1 if args.strict else 0
    looked_up = len(found) - len(unknown)
    print(f"audit: {looked_up} dependencies looked up, none is known to be vulnerable")
    if unknown:
        print(f"audit: not looked up: {', '.join(unknown)}", file=sys.stderr)
    return 1 if unknown and args.strict else 0


if __name__ == "__main__":
    sys.exit(main())
