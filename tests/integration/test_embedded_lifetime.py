"""However its owner ends, no server and no directory stay behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dotmac.database.embedded import EmbeddedPostgres, EmbeddedValkey, _directories

_DEADLINE_SECONDS = 60

_OWNER = """
import json, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
from dotmac.database.embedded import EmbeddedPostgres, EmbeddedValkey
kind = {"postgres": EmbeddedPostgres, "valkey": EmbeddedValkey}[sys.argv[1]]
server = kind().start()
address = server.address
socket_path = address.socket_path
print(json.dumps({"pid": server.pid, "supervisor": address.supervisor_pid, "directory": str(socket_path.parent.parent)}))
sys.stdout.flush()
"""


@pytest.fixture
def start_owner():
    """Starts a process that owns a server and then does ``then``."""
    owners = []

    def start(kind, then="signal.pause()"):
        owner = subprocess.Popen(
            [sys.executable, "-c", _OWNER + then, kind], stdout=subprocess.PIPE, text=True
        )
        owners.append(owner)
        return owner, json.loads(owner.stdout.readline())

    yield start
    for owner in owners:
        owner.kill()
        owner.wait()
        owner.stdout.close()


def wait_for_end(*descriptors: int) -> None:
    """Wait until the processes behind these pidfds have ended."""
    for descriptor in descriptors:
        assert select.select([descriptor], [], [], _DEADLINE_SECONDS)[0], "the process is still there"
        os.close(descriptor)


@pytest.mark.parametrize("kind", ["postgres", "valkey"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_server_ends_with_its_owner(start_owner, kind, number):
    owner, started = start_owner(kind)
    server, supervisor = os.pidfd_open(started["pid"]), os.pidfd_open(started["supervisor"])
    owner.send_signal(number)
    owner.communicate(timeout=60)
    wait_for_end(server, supervisor)
    assert not Path(started["directory"]).exists()


@pytest.mark.parametrize("then", ["", "raise SystemExit(3)", "1 / 0"])
def test_server_is_gone_when_its_owner_has_exited(start_owner, then):
    owner, started = start_owner("postgres", then + "  # ends here\n")
    owner.communicate()
    with pytest.raises(ProcessLookupError):
        os.kill(started["pid"], 0)
    assert not Path(started["directory"]).exists()


def test_forked_child_neither_stops_nor_keeps_the_server(start_owner):
    # The child inherits the pipe and outlives its parent, which is then killed.
    then = """
import os
child = os.fork()
if child == 0:
    import atexit
    atexit._run_exitfuncs()
    os.write(1, f"{server.is_running}\\n".encode())
    signal.pause()
os.write(1, f"{child}\\n".encode())
signal.pause()
"""
    owner, started = start_owner("postgres", then)
    server, supervisor = os.pidfd_open(started["pid"]), os.pidfd_open(started["supervisor"])
    lines = {owner.stdout.readline().strip(), owner.stdout.readline().strip()}
    child = int((lines - {"True"}).pop())
    try:
        assert "True" in lines
        assert not select.select([server], [], [], 0)[0]
        owner.kill()
        wait_for_end(server, supervisor)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("kind", ["postgres", "valkey"])
def test_server_ends_with_its_supervisor(start_owner, kind):
    _owner, started = start_owner(kind)
    server = os.pidfd_open(started["pid"])
    os.kill(started["supervisor"], signal.SIGKILL)
    wait_for_end(server)


def test_next_start_sweeps_what_a_crash_left(start_owner, monkeypatch):
    owner, started = start_owner("valkey")
    server = os.pidfd_open(started["pid"])
    # Nobody is left to clean up.
    os.kill(started["supervisor"], signal.SIGSTOP)
    owner.kill()
    owner.communicate()
    os.kill(started["supervisor"], signal.SIGKILL)
    wait_for_end(server)
    assert Path(started["directory"]).exists()
    monkeypatch.setattr(_directories, "_NEWEST_SWEPT_SECONDS", -1)
    with EmbeddedValkey():
        assert not Path(started["directory"]).exists()


def test_sweep_leaves_living_servers_alone(monkeypatch):
    monkeypatch.setattr(_directories, "_NEWEST_SWEPT_SECONDS", -1)
    with EmbeddedValkey() as first, EmbeddedValkey():
        assert first.address.socket_path.exists()


def test_detached_server_is_shut_down_by_its_address():
    server = EmbeddedPostgres(owner_pid=os.getpid()).start()
    pid = os.pidfd_open(server.pid)
    address = server.detach()
    server.stop()
    assert address.execute("SELECT 1") == [["1"]]
    address.shut_down()
    wait_for_end(pid)
    assert not address.socket_dir.exists()
    address.shut_down()


def test_detaching_needs_an_owner():
    with EmbeddedPostgres() as server, pytest.raises(ValueError, match="owner_pid"):
        server.detach()
