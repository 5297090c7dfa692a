"""What a command holds while it prints: nothing, because a pager may keep it waiting for hours."""

import subprocess
from pathlib import Path

from conftest import PROGRAM, environment
from kit.callbacks import T0, body_of
from kit.wait import wait_until

from app.infra import sqlite
from app.infra.data_dir import DataDir
from cli.commands import bring_in


def test_a_command_whose_output_nobody_reads_holds_up_no_checkpoint(tmp_path: Path) -> None:
    bring_in(tmp_path, [body_of("r", T0 + number, CustomInfo="x" * 1000) for number in range(300)])
    command = [PROGRAM, "history", "r", "--limit", "300", "--json", "--data", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        process.stdout.read(1)  # it has begun to print, and a pipe holds 64 KiB of its 300
        conn = sqlite.open_writer(DataDir(tmp_path).read_models_path, synchronous="NORMAL", busy_timeout_ms=0)
        conn.execute("CREATE TABLE grown (x)")
        moved = wait_until(lambda: conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone(), "the WAL is moved")
        assert moved == (0, 0, 0), "somebody reads what it holds"
        conn.close()
        assert process.poll() is None, "it still prints"
        process.stdout.read()
    assert process.returncode == 0
