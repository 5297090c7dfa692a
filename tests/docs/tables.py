"""The tables of the reference, made from the program: commands, settings, metrics, routes."""

import ast
import re
from collections.abc import Iterable, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Any

import rich_click as click
from prometheus_client.metrics import MetricWrapperBase

from app.cli.main import main
from app.infra.metrics import Metrics
from app.infra.settings import VARIABLES
from app.tencent.request import ANSWER_FIELDS
from docs.files import ROOT

METHODS = ("get", "post")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(_cell(text) for text in row)} |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<=", "≤").replace(">=", "≥")


# ---- commands ----


def commands() -> str:
    """A line for each command: its name, and the first sentence of its help."""
    return table(
        ("command", "does"),
        (
            (f"[`roomlapse {name}`](#roomlapse-{name})", command.get_short_help_str(500))
            for name, command in _commands()
        ),
    )


def command_options() -> str:
    """A section for each command: how it is used, its help, and its options."""
    root = click.Context(main, info_name="roomlapse", **main.context_settings)
    return "\n\n".join(_section(click.Context(command, info_name=name, parent=root)) for name, command in _commands())


def _commands() -> list[tuple[str, click.Command]]:
    return list(main.commands.items())


def _section(context: click.Context, depth: int = 2) -> str:
    command = context.command
    command._help_option = None  # click keeps the one of the first context, which another test may have made
    usage = " ".join((context.command_path, *command.collect_usage_pieces(context)))
    parts = [f"{'#' * depth} {context.command_path}", f"```text\n{usage}\n```"]
    parts += [cleandoc(text).replace("\b\n", "") for text in (command.help, command.epilog) if text]
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    options = [(f"`{names}`", _plain(help_)) for names, help_ in filter(None, records)]
    parts.append(table(("option", "means"), options))
    if isinstance(command, click.Group):
        parts += [
            _section(click.Context(inner, info_name=name, parent=context), depth + 1)
            for name, inner in command.commands.items()
        ]
    return "\n\n".join(parts)


def _plain(help_: str) -> str:
    """An option's help without the brackets that Markdown would read as a link."""
    return re.sub(r"default: \((.+?)\)", r"default: \1", help_).replace("[", "(").replace("]", ")")


# ---- settings ----


def variables() -> str:
    """A line for each variable of the environment."""
    return table(
        ("variable", "means", "unless set"),
        ((f"`{name}`", variable.means, variable.default) for name, variable in VARIABLES.items()),
    )


# ---- metrics ----


def metrics() -> str:
    """A line for each metric, by the names that `/metrics` gives them."""
    wrappers = [value for value in vars(Metrics()).values() if isinstance(value, MetricWrapperBase)]
    return table(("metric", "type", "labels", "means"), sorted(_metric(wrapper) for wrapper in wrappers))


def _metric(wrapper: MetricWrapperBase) -> tuple[str, str, str, str]:
    family = next(iter(wrapper.collect()))
    name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
    labels = ", ".join(f"`{label}`" for label in wrapper._labelnames)  # no public way to ask for them
    return f"`{name}`", family.type, labels, family.documentation


# ---- routes ----


def routes(schema: dict[str, Any]) -> str:
    """A line for each route of the OpenAPI schema."""
    return table(
        ("route", "answers"),
        (
            (f"[`{method.upper()} {path}`](#{_anchor(f'{method} {path}')})", operation["summary"])
            for method, path, operation in _operations(schema)
        ),
    )


def route_parameters(schema: dict[str, Any]) -> str:
    """A section for each route: its parameters, and what it answers."""
    sections = []
    for method, path, operation in _operations(schema):
        parts = [f"### {method.upper()} {path}", f"{operation['summary']}."]
        if parameters := operation.get("parameters"):
            parts.append(table(("parameter", "in", "means"), (_parameter(one) for one in parameters)))
        parts.append(f"Answer: {_answer(operation['responses']['200'])}.")
        sections.append("\n\n".join(parts))
    return "\n\n".join(sections)


def answers(schema: dict[str, Any]) -> str:
    """A section for each struct that routes answer with: its fields and their types."""
    sections = []
    for name, struct in sorted(schema["components"]["schemas"].items()):
        fields = (
            (f"`{field}`", _type(type_), "" if field in struct["required"] else "may be absent")
            for field, type_ in struct["properties"].items()
        )
        sections.append(f"### {name}\n\n{table(('field', 'type', ''), fields)}")
    return "\n\n".join(sections)


def statuses(schema: dict[str, Any]) -> str:
    """A line for each status code but 200, with its meaning for questions and for callbacks."""
    meanings: dict[str, tuple[set[str], set[str]]] = {}
    for _, path, operation in _operations(schema):
        for status, response in operation["responses"].items():
            if status != "200" and path != "/readyz":  # whose 503 is an answer, not a problem
                meanings.setdefault(status, (set(), set()))[path == "/callbacks"].add(response["description"])
    return table(
        ("status", "of a question", "of a callback"),
        (
            (status, " ".join(sorted(questions)), " ".join(sorted(callbacks)))
            for status, (questions, callbacks) in sorted(meanings.items())
        ),
    )


def _operations(schema: dict[str, Any]) -> Iterable[tuple[str, str, dict[str, Any]]]:
    for path, item in sorted(schema["paths"].items(), key=lambda one: one[0] != "/callbacks"):
        for method in METHODS:
            if method in item:
                yield method, path, item[method]


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return "".join(char for char in heading.lower().replace(" ", "-") if char.isalnum() or char in "-_")


def _parameter(parameter: dict[str, Any]) -> tuple[str, str, str]:
    type_ = parameter["schema"]
    limits = [f"{type_['minimum']:.0f} to {type_['maximum']:.0f}"] if type_.get("maximum", 2**60) < 2**60 else []
    limits += [f"{type_['default']} unless given"] if type_.get("default") is not None else []
    limits += ["required"] if parameter["required"] else []
    means = parameter.get("description", "")
    return f"`{parameter['name']}`", parameter["in"], f"{means} ({', '.join(limits)})".strip() if limits else means


def _answer(response: dict[str, Any]) -> str:
    (media_type, content), *_ = response["content"].items()
    kind = _type(content["schema"])
    fields = content["schema"].get("properties", {})
    if set(fields) == set(ANSWER_FIELDS):
        kind = f"an object of {', '.join(f'`{name}`' for name in fields)}"
    return kind if media_type == "application/json" else f"`{media_type}`"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{_anchor(name)})"
    if "oneOf" in schema:
        return " or ".join(_type(one) for one in schema["oneOf"])
    match schema.get("type"):
        case "array":
            return f"array of {_type(schema['items'])}"
        case "object" if "additionalProperties" in schema:
            return f"object of {_type(schema['additionalProperties'])}"
        case None:
            return "any JSON"
        case simple:
            return str(simple)


# ---- modules ----


def modules() -> str:
    """A line for each module of the program: its room, its name, and what its docstring says first."""
    paths = [*(ROOT / "app").rglob("*.py"), *(ROOT / "projections").glob("*.py")]
    named = sorted((path.relative_to(ROOT).as_posix(), path) for path in paths if path.name != "__init__.py")
    return table(("module", "holds"), ((f"[`{name}`](../../{name})", _first_sentence(path)) for name, path in named))


def _first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return re.split(r"(?<=\.)\s", docstring.replace("\n", " "), maxsplit=1)[0]
