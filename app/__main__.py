"""Where the program begins.

Apart from the commands because the processes of a rebuild or an import begin here too, and need none of them.
"""


def main() -> None:
    """Run the command line."""
    from app.cli.main import main as run  # noqa: PLC0415  see above: it takes longer to import than all that they need

    run()


if __name__ == "__main__":
    main()
