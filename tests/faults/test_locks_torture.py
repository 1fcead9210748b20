# ruff: noqa: S311, S608 - chance needs no secrecy here, and every name in the SQL is ours
"""Eight processes count under one lock while they are killed and paused and the lock's server goes away.

DOTMAC_TEST_TORTURE_SECONDS says for how long; the default is 10.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from sqlalchemy import pool, text

from dotmac.database.embedded import EmbeddedValkey
from dotmac.database.engine import create_engine

SECONDS = float(os.environ.get("DOTMAC_TEST_TORTURE_SECONDS", "10"))
PROCESSES = 8
LONGEST_SECONDS = 60
WORKER = Path(__file__).with_name("locks_worker.py")
_logger = logging.getLogger("dotmac.torture")


class Torture:
    """The processes, and the counter that judges them."""

    def __init__(self, url, **plan):
        self.table = f"locks_{uuid.uuid4().hex[:8]}"
        self.engine = create_engine(url, poolclass=pool.NullPool)
        self.run(
            f"CREATE TABLE {self.table} (value int, writes int, refused int, highest bigint, holder int);"
            f"INSERT INTO {self.table} VALUES (0, 0, 0, 0, 0);"
            f"CREATE TABLE {self.table}_grants (token bigint PRIMARY KEY)"
        )
        self.plan = {"table": self.table, "resource": url.replace("+asyncpg", ""), "redis": None, **plan}
        self.workers = [self.start() for _ in range(PROCESSES)]
        self.kills = self.pauses = self.outages = 0

    def run(self, statements):
        with self.engine.begin() as connection:
            for statement in statements.split(";"):
                connection.execute(text(statement))

    def row(self):
        with self.engine.connect() as connection:
            return connection.execute(text(f"SELECT * FROM {self.table}")).one()

    def start(self):
        return subprocess.Popen(
            [sys.executable, WORKER, json.dumps(self.plan)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )

    def kill(self):
        victim = random.randrange(PROCESSES)
        self.end(victim)
        self.workers[victim] = self.start()
        self.kills += 1

    def end(self, number):
        worker = self.workers[number]
        assert worker.poll() is None, worker.stderr.read().decode()
        worker.kill()
        worker.communicate()

    def pause(self):
        """Stop the one that works at this moment, for longer than its lock lasts."""
        pid = self.row().holder
        if pid not in {worker.pid for worker in self.workers if worker.poll() is None}:
            time.sleep(0.05)
            return
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(random.uniform(0.6, 1.0))
        finally:
            os.kill(pid, signal.SIGCONT)
        self.pauses += 1

    def close(self):
        for number in range(PROCESSES):
            self.end(number)
        row = self.row()
        self.run(f"DROP TABLE {self.table}; DROP TABLE {self.table}_grants")
        _logger.info("%s; %d kills, %d pauses, %d outages", row, self.kills, self.pauses, self.outages)
        return row


def torment(torture, outage):
    """Until the time is over, counted from the first write on."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while not torture.row().writes:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        action = random.choices(["kill", "pause", "outage"], [1, 4, 1])[0]
        if action == "kill":
            torture.kill()
        elif action == "pause":
            torture.pause()
        else:
            outage()
            torture.outages += 1
        time.sleep(random.uniform(0.05, 0.3))


@pytest.fixture
def valkey(tmp_path_factory):
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey"), tcp=True, durable=False) as server:
        yield server


def test_a_fenced_counter_loses_no_write_under_a_redis_lock(dotmac_database, valkey):
    def outage():
        valkey.kill()
        time.sleep(random.uniform(0.1, 0.8))
        valkey.start()

    torture = Torture(dotmac_database.url(), fenced=True, redis=valkey.tcp_url)
    torment(torture, outage)
    row = torture.close()
    assert row.value == row.writes > 0


def test_without_fencing_writes_are_lost(dotmac_database, valkey):
    torture = Torture(dotmac_database.url(), fenced=False, redis=valkey.tcp_url)
    deadline = time.monotonic() + LONGEST_SECONDS
    while (row := torture.row()).value == row.writes:
        assert time.monotonic() < deadline, "the torture is too mild to show anything"
        torture.pause()
    torture.close()
