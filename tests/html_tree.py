"""A page read back the way a browser would: a tree of elements, its links and its forms."""

import html.parser
from collections.abc import Iterator
from functools import cached_property

VOID = {"meta", "link", "input", "br", "hr", "img"}


class Node:
    """An element: its attributes, and what is in it."""

    def __init__(self, tag: str, attrs: dict[str, str], parent: "Node | None") -> None:
        self.tag, self.attrs, self.parent = tag, attrs, parent
        self.children: list[Node | str] = []

    @cached_property
    def elements(self) -> list["Node"]:
        """The elements in it, in the order of the page."""
        found: list[Node] = []
        for child in self.children:
            if isinstance(child, Node):
                found += [child, *child.elements]
        return found

    def all(self, tag: str, **attrs: str) -> list["Node"]:
        """Find the elements of a kind; `class_` is one of an element's classes."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attrs.items()}
        return [
            node
            for node in self.elements
            if node.tag == tag
            and all(
                value in node.attrs.get(name, "").split() if name == "class" else node.attrs.get(name) == value
                for name, value in wanted.items()
            )
        ]

    def one(self, tag: str, **attrs: str) -> "Node":
        """Find the only element of a kind."""
        found = self.all(tag, **attrs)
        assert len(found) == 1, f"{len(found)} of {tag} {attrs}"
        return found[0]

    @property
    def raw_text(self) -> str:
        """All text in it."""
        return "".join(child if isinstance(child, str) else child.raw_text for child in self.children)

    @property
    def text(self) -> str:
        """All text in it, with white space as a browser shows it."""
        return " ".join(self.raw_text.split())


class _Parser(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {}, None)
        self.at = self.root

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"{tag} has an attribute twice: {names}"
        node = Node(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.children.append(node)
        if tag not in VOID:
            self.at = node

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.at.tag, f"</{tag}> closes <{self.at.tag}>"
        assert self.at.parent is not None
        self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        self.at.children.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")


def read_html(text: str) -> Node:
    """Read a page; every element has to be closed where it belongs."""
    assert text.startswith("<!doctype html>\n")
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert parser.at is parser.root, f"<{parser.at.tag}> is not closed"
    return parser.root


def values_of(form: Node) -> dict[str, str]:
    """What a browser would send of a form that nobody has touched."""
    values: dict[str, str] = {}
    for node in form.elements:
        if node.tag == "input" and "name" in node.attrs and "disabled" not in node.attrs:
            values[node.attrs["name"]] = node.attrs.get("value", "")
        elif node.tag == "select":
            options = node.all("option")
            chosen = next((option for option in options if "selected" in option.attrs), options[0])
            values[node.attrs["name"]] = chosen.attrs.get("value", chosen.text)
    return values


def rows_of(table: Node) -> list[list[str]]:
    """The texts of a table's body."""
    body = table.one("tbody")
    return [[cell.text for cell in row.elements if cell.tag in ("td", "th")] for row in body.all("tr")]


def moments_in(node: Node) -> list[int]:
    """The times that it tells, in milliseconds."""
    return [int(found.attrs["data-ms"]) for found in node.all("time")]


def attributes(node: Node) -> Iterator[tuple[str, str, str]]:
    """Every attribute of every element: its element's tag, its name, its value."""
    for element in node.elements:
        for name, value in element.attrs.items():
            yield element.tag, name, value
