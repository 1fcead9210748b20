"""``dotmac-db demo`` on its real embedded servers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack

import httpx
import pytest

from dotmac.database.cli._demo_attacks import ATTACKS

DEMO = [sys.executable, "-c", "from dotmac.database.cli import main; main()", "demo"]
# Settings of the shell it is started from, which must not reach it.
ENVIRONMENT = os.environ | {
    "DATABASE_URL": "postgresql://nobody:SECRET@192.0.2.1/x",
    "DB_POOL_SIZE": "nonsense",
}


def test_every_step_of_the_demo_holds():
    done = subprocess.run([*DEMO, "--json"], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"]
    assert {step["name"]: step["failure"] for step in report["steps"] if not step["ok"]} == {}
    names = [step["name"] for step in report["steps"]]
    assert names[:4] == ["Start the servers", "Migrate", "Load", "Start the API"]
    assert names[-2:] == ["Keep tenants apart", "Compare isolation modes"]
    modes = {step.pop("name"): step for step in report["modes"]["steps"]}
    assert [step for step, cells in modes.items() if set(cells) != {"shared", "schema", "database"}] == []
    assert {cell["holds"] for cells in modes.values() for cell in cells.values()} == {True}
    assert report["modes"]["attacks_held"] == 3 * len(ATTACKS)
    assert done.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_served_demo_answers_until_it_is_stopped_and_leaves_nothing(number):
    with (
        subprocess.Popen(
            [*DEMO, "--serve", "--json"], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
        ) as process,
        ExitStack() as stack,
    ):
        stack.callback(process.kill)  # whatever fails below, nothing waits for it for ever
        assert process.stdout is not None
        lines = []
        while not lines or lines[-1] != "}\n":
            lines.append(process.stdout.readline())
            assert lines[-1], "".join(lines)
        urls = json.loads("".join(lines))["urls"]
        with httpx.Client(base_url=urls["api"], trust_env=False, headers={"X-Tenant-ID": "cedar"}) as client:
            assert client.get("/tasks", params={"per_page": 1}).json()["total"] == 20_000
        process.send_signal(number)
        assert process.wait(timeout=60) == 0
    for url in (urls["api"], urls["postgres"], urls["valkey"]):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", httpx.URL(url).port or 0)) != 0


def test_a_taken_port_is_told_in_one_line_before_anything_starts():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run([*DEMO, "--port", port], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: Port {port} is taken. Choose another one with --port, or leave it out.\n"
