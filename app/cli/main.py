"""The command line. Results go to stdout, progress and logs to stderr.

Exit 0: done; 1: a problem, or nothing there; 2: wrong usage.
"""

import rich_click as click

from app.cli import caring, questions, running
from app.cli.edge import CommandLine
from app.cli.options import take_text_only

PANELS = {
    "Serve": [running.serve, running.demo, running.simulate],
    "Ask": [
        questions.room,
        questions.rooms,
        questions.history,
        questions.diff,
        questions.counts,
        questions.visibility,
        questions.status,
    ],
    "Care": [
        caring.rebuild_command,
        caring.verify,
        caring.backup,
        caring.doctor,
        caring.import_command,
        caring.export,
        caring.rejected,
    ],
}
"""The commands as `--help` groups them; the first example of each group is that of its first command."""


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="roomlapse")
def main() -> None:
    """Roomlapse, a time machine for live rooms.

    Times are epoch milliseconds, or ISO 8601 with an offset: 2026-03-11T14:28:44Z.
    """


for _panel, _commands in PANELS.items():
    main.add_panel(
        click.RichCommandPanel(_panel, commands=[str(command.name) for command in _commands], help=_commands[0].epilog)
    )
    for _command in _commands:
        take_text_only(_command)
        main.add_command(_command)
