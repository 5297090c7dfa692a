"""The documentation's files, and the parts of them that programs read or write."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FILES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name_of(path: Path) -> str:
    """A file's path in the repository."""
    return path.relative_to(ROOT).as_posix()


def code_in(text: str, language: str) -> list[str]:
    """What stands in the fenced blocks of a language, without the fences."""
    return [code for found, code in _FENCE.findall(text) if found == language]


def without_code(text: str) -> str:
    """The text without its fenced blocks."""
    return _FENCE.sub("", text)


def block_in(text: str, name: str) -> str:
    """What a program has written between the markers of that name. Raises KeyError if there are none."""
    found = _block(name).search(text)
    if found is None:
        raise KeyError(
            f"no block {name!r}: it begins with <!-- begin {name}: ... --> and ends with <!-- end {name} -->"
        )
    return found[2].strip("\n")


def with_block(text: str, name: str, content: str) -> str:
    """The text with other content between the markers of that name. Raises KeyError if there are none."""
    block_in(text, name)
    return _block(name).sub(lambda found: f"{found[1]}\n{content.strip()}\n\n{found[3]}", text)


def blocks_in(text: str) -> list[str]:
    """The names of the blocks that programs write."""
    return re.findall(r"^<!-- begin ([\w-]+): .* -->$", text, re.MULTILINE)


def _block(name: str) -> re.Pattern[str]:
    return re.compile(rf"^(<!-- begin {name}: .*? -->\n)(.*?)^(<!-- end {name} -->)$", re.DOTALL | re.MULTILINE)
