# ruff: noqa: S311, S608 - chance needs no secrecy here, and every name in the SQL is ours
"""Eight processes count under one lock while they are killed and paused and the lock's server goes away.

They keep two counters. One checks fencing tokens and must lose nothing; the other does not, and must lose something, or the
torture was too mild to show anything.

DOTMAC_TEST_TORTURE_SECONDS says for how long; the default is 3.
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

from dotmac.database.embedded import EmbeddedPostgres, EmbeddedValkey
from dotmac.database.engine import create_engine

SECONDS = float(os.environ.get("DOTMAC_TEST_TORTURE_SECONDS", "3"))
PROCESSES = 8
LONGEST_SECONDS = 60
WORKER = Path(__file__).with_name("locks_worker.py")
_logger = logging.getLogger("dotmac.torture")


class Workers:
    """The processes; none of them outlives the block, nor the process that tests."""

    def __init__(self, **plan):
        self.nursery = subprocess.Popen(
            [sys.executable, WORKER, json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.running = set()
        self.kills = self.pauses = 0

    def __enter__(self):
        for _ in range(PROCESSES):
            self.start()
        return self

    def __exit__(self, *_):
        self.nursery.stdin.close()
        self.nursery.wait()
        self.nursery.stdout.close()

    def ask(self, *words):
        print(*words, file=self.nursery.stdin, flush=True)
        return int(self.nursery.stdout.readline())

    def start(self):
        self.running.add(self.ask("start"))

    def end(self, pid):
        self.running.remove(pid)
        assert self.ask("end", pid) == -signal.SIGKILL, "it had ended by itself, see its standard error"

    def kill(self):
        self.end(random.choice(list(self.running)))
        self.start()
        self.kills += 1

    def pause(self, pid, meanwhile):
        """Stop the one that works at this moment."""
        if pid not in self.running:
            time.sleep(0.05)
            return
        os.kill(pid, signal.SIGSTOP)
        try:
            meanwhile()
        finally:
            os.kill(pid, signal.SIGCONT)
        self.pauses += 1

    def end_all(self):
        for pid in list(self.running):
            self.end(pid)


class Counters:
    """What the processes count in; judges the lock."""

    def __init__(self, url):
        self.name = f"locks_{uuid.uuid4().hex[:8]}"
        self.url = url.replace("+asyncpg", "")
        self.engine = create_engine(url, pool_size=1, isolation_level="AUTOCOMMIT")

    def __enter__(self):
        self.run(
            f"CREATE TABLE {self.name} (value int, writes int, refused int, highest bigint, holder int);"
            f"INSERT INTO {self.name} VALUES (0, 0, 0, 0, 0);"
            f"CREATE TABLE {self.name}_unfenced (value int, writes int);"
            f"INSERT INTO {self.name}_unfenced VALUES (0, 0);"
            f"CREATE TABLE {self.name}_grants (token bigint PRIMARY KEY)"
        )
        return self

    def __exit__(self, *_):
        self.run(f"DROP TABLE {self.name}, {self.name}_unfenced, {self.name}_grants")
        self.engine.dispose()

    def run(self, statements):
        with self.engine.begin() as connection:
            for statement in statements.split(";"):
                connection.execute(text(statement))

    def row(self, suffix=""):
        with self.engine.connect() as connection:
            return connection.execute(text(f"SELECT * FROM {self.name}{suffix}")).one()

    def lost(self):
        """How many writes the unchecked counter does not show."""
        row = self.row("_unfenced")
        return row.writes - row.value


def actions():
    """Each several times in any order, and then again, so that a short run has them all."""
    while True:
        yield from random.sample(["kill", "pause", "outage"], counts=[1, 4, 1], k=6)


def torment(kind, url, server, resource, *, meanwhile=lambda _: time.sleep(random.uniform(0.6, 1.0))):
    outages = 0
    with Counters(resource) as counters:
        with Workers(kind=kind, table=counters.name, lock=url, resource=counters.url) as workers:
            deadline = time.monotonic() + LONGEST_SECONDS
            while not counters.row().writes:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            began = time.monotonic()
            for action in actions():
                if time.monotonic() > began + SECONDS and outages and workers.kills and counters.lost():
                    break
                assert time.monotonic() < began + SECONDS + LONGEST_SECONDS, "too mild to show anything"
                if action == "kill":
                    workers.kill()
                elif action == "pause":
                    workers.pause(counters.row().holder, lambda: meanwhile(counters))
                else:
                    server.kill()
                    time.sleep(random.uniform(0.1, 0.5))
                    server.start()
                    outages += 1
                time.sleep(random.uniform(0.05, 0.3))
            workers.end_all()
        row, lost = counters.row(), counters.lost()
        _logger.info(
            "%s: %s writes, %s refused, %s lost without fencing; %d kills, %d pauses, %d outages",
            *(kind, row.writes, row.refused, lost, workers.kills, workers.pauses, outages),
        )
        assert lost > 0
        assert row.value == row.writes > 0


@pytest.fixture
def valkey(tmp_path_factory):
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey"), tcp=True, durable=False) as server:
        yield server


@pytest.fixture
def postgres(tmp_path_factory):
    with EmbeddedPostgres(directory=tmp_path_factory.mktemp("postgres"), durable=False) as server:
        yield server


def test_a_fenced_counter_loses_no_write_under_a_redis_lock(dotmac_database, valkey):
    torment("redis", valkey.tcp_url, valkey, dotmac_database.url())


def test_a_fenced_counter_loses_no_write_under_an_advisory_lock(dotmac_database, postgres):
    administration = create_engine(postgres.url(driver="psycopg", role="admin"), poolclass=pool.NullPool)

    def meanwhile(counters):
        """The pause alone takes no lock away: it lives as long as its connection."""
        if random.random() < 0.2:
            time.sleep(random.uniform(0.05, 0.3))
            return
        with administration.begin() as connection:
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
            )
        writes, deadline = counters.row("_unfenced").writes, time.monotonic() + 0.6
        while counters.row("_unfenced").writes == writes and time.monotonic() < deadline:
            time.sleep(0.02)

    torment("postgresql", postgres.url(), postgres, dotmac_database.url(), meanwhile=meanwhile)
