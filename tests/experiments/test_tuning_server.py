"""A tuning on a database server: four commands share its trials, two of them are killed, and no trial is lost or run twice."""

import multiprocessing
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="Optuna is not installed: the extra 'experiments'")
psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: pip install psycopg[binary]")

from spiky_rl.experiments.run import tuning_plan
from tests.experiments import tunings
from tests.experiments.test_tuning import ends

pytestmark = pytest.mark.slow
COMMANDS, TRIALS, PATIENCE = 4, 12, 300.0
USER, PASSWORD = "spiky", "p@ss/word"


def find_program(name: str) -> str:
    """The newest ``name`` of PostgreSQL that the distribution installed; Debian has it on no path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    program = shutil.which(name) or (str(found[-1]) if found else None)
    if program is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return program


@pytest.fixture(name="url", scope="module")
def a_server() -> Iterator[str]:
    """URL of a fresh database on a server of this test's own, which does not run as root."""
    initdb, server = find_program("initdb"), find_program("postgres")
    owner = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    own = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="spiky_rl_pg") as folder:
        data, secret = Path(folder) / "data", Path(folder) / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        for path in (Path(folder), secret):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        line = [initdb, "-D", data, "-U", USER, "--auth=scram-sha-256", f"--pwfile={secret}", "-E", "UTF8"]
        subprocess.run(
            [*line, "--no-locale", "--no-sync"], check=True, capture_output=True, cwd=folder, **own
        )
        line = [server, "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-c", "fsync=off"]
        with open(Path(folder) / "log", "wb") as log:
            process = subprocess.Popen(line, cwd=folder, stdout=log, stderr=log, **own)
        try:
            wait_for(port, process, Path(folder) / "log")
            yield f"postgresql+psycopg://{USER}:p%40ss%2Fword@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # it lets nobody in and ends
            process.wait(60)


def wait_for(port: int, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            open_database(port).close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.1)


def open_database(port: int):
    return psycopg.connect(host="127.0.0.1", port=port, user=USER, password=PASSWORD, dbname="postgres")


def test_four_commands_of_which_two_are_killed_lose_no_trial_and_run_none_twice(url, tmp_path):
    out, fork = tmp_path / "out", multiprocessing.get_context("fork")
    wanted = replace(tunings.asked(trials=TRIALS), storage=tuning_plan.redact_storage_url(url))
    barrier = fork.Barrier(COMMANDS)

    def tune():
        barrier.wait(PATIENCE)  # a fresh folder and a fresh database, for all of them
        tunings.run(out, wanted, 1, tunings.Computed(seconds=0.3), storage=url)

    commands = [fork.Process(target=tune) for _ in range(COMMANDS)]
    for command in commands:
        command.start()
    deadline = time.monotonic() + PATIENCE
    for killed, after in ((commands[0], 6), (commands[1], 12)):
        while len(ends(out)) < after:
            assert time.monotonic() < deadline and killed.is_alive()
            time.sleep(0.005)
        os.kill(killed.pid, signal.SIGKILL)
    for command in commands:
        command.join(PATIENCE)
    assert [command.exitcode for command in commands] == [-signal.SIGKILL, -signal.SIGKILL, 0, 0]

    found = tunings.trials(tunings.search(out, wanted, storage=url))
    assert {agent: [number for number, *_ in own] for agent, own in found.items()} == {
        agent: list(range(TRIALS)) for agent in ("lif_ppo", "mlp_ppo")
    }
    assert {state for own in found.values() for _, state, *_ in own} <= {"COMPLETE", "PRUNED"}
    assert len(set(ends(out))) == len(ends(out)), "no cell was run to its end twice"
    cells = {path.parent.name for path in out.glob("cells/*/result.json")}
    assert {path.name for path in (out / "cells").iterdir()} == cells, "no cell was begun and forgotten"
    with open_database(int(url.rpartition(":")[2].partition("/")[0])) as database:
        rows = database.execute("select study_id, number, state from trials").fetchall()
        assert len(rows) == len({row[:2] for row in rows}) == 2 * TRIALS
        assert database.execute("select count(*) from studies").fetchone() == (2,)
        assert database.execute("select count(*) from alembic_version").fetchone() == (1,)
    kept = (out / "tuning.json").read_text(encoding="utf-8")
    assert "postgresql+psycopg://spiky@127.0.0.1" in kept and "word" not in kept
