"""``dotmac-db dev`` as people and scripts use it."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys

import psycopg
import pytest
import redis

_COMMAND = [sys.executable, "-c", "from dotmac.database.cli import main; main()", "dev"]


@pytest.fixture
def dev(tmp_path):
    started = []

    def start(*options):
        process = subprocess.Popen(
            [*_COMMAND, *options], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def read_until(process, last):
    """What the process prints up to the line ``last``; it must not end before that."""
    text = ""
    while not text.endswith(last):
        line = process.stdout.readline()
        assert line, f"it ended: {process.stderr.read()}"
        text += line
    return text


def read_json(process):
    return json.loads(read_until(process, "}\n"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_servers_run_until_a_signal_and_end_cleanly(dev, number):
    process = dev("--json")
    urls = read_json(process)
    with psycopg.connect(urls["DATABASE_URL"].replace("+asyncpg", "")) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("app",)
    with redis.Redis.from_url(urls["REDIS_URL"]) as client:
        assert client.ping() is True
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(urls["DATABASE_URL"].replace("+asyncpg", ""))


def test_second_call_prints_the_urls_of_the_first(dev, tmp_path):
    urls = read_json(dev("--json"))
    second = dev("--env")
    output, notes = second.communicate()
    assert dict(line.split("=", 1) for line in output.splitlines()) == urls
    assert notes == "Already running; these are its URLs.\n"
    assert stat.S_IMODE((tmp_path / ".dotmac" / "urls.json").stat().st_mode) == 0o600
    assert (tmp_path / ".dotmac" / ".gitignore").read_text() == "*\n"


def test_table_shows_whole_urls(dev):
    text = read_until(dev(), "Running; Ctrl-C stops both.\n")
    assert "postgresql+asyncpg://app:" in text
    assert "…" not in text


def test_taken_port_is_one_line(dev):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        process = dev("--port", str(listener.getsockname()[1]))
        output, errors = process.communicate()
    assert (process.returncode, output) == (1, "")
    assert errors.startswith("Error: Port ")
    assert errors.count("\n") == 1
