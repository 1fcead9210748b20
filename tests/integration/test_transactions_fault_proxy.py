"""The fault proxy does to connections what its methods say."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest
from sqlalchemy import make_url


@pytest.fixture
def proxied(dotmac_fault_proxy, dotmac_database):
    return dotmac_fault_proxy.url(dotmac_database.url(None))


@pytest.fixture
async def connection(proxied):
    made = await asyncpg.connect(proxied)
    yield made
    made.terminate()


async def test_it_forwards(dotmac_fault_proxy, connection):
    assert await connection.fetchval("SELECT repeat('x', 300000)") == "x" * 300_000
    assert dotmac_fault_proxy.accepted == 1
    assert dotmac_fault_proxy.open_connections == 1


async def test_it_names_itself_in_the_url(dotmac_fault_proxy, dotmac_database, proxied):
    through, direct = make_url(proxied), make_url(dotmac_database.url(None))
    assert (through.host, through.port) == ("127.0.0.1", dotmac_fault_proxy.port)
    assert through.set(host=direct.host, port=direct.port) == direct


async def test_it_delays_both_ways(dotmac_fault_proxy, connection):
    dotmac_fault_proxy.delay(0.05)
    started = time.monotonic()
    await connection.execute("SELECT 1")
    assert time.monotonic() - started >= 0.1


async def test_it_cuts_after_so_many_bytes(dotmac_fault_proxy, proxied):
    dotmac_fault_proxy.cut_after(5_000)
    connection = await asyncpg.connect(proxied)
    assert await connection.fetchval("SELECT 1") == 1
    with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
        await connection.fetchval("SELECT repeat('x', 10000)")
    dotmac_fault_proxy.heal()
    await (await asyncpg.connect(proxied)).close()


async def test_it_refuses_until_healed(dotmac_fault_proxy, proxied):
    dotmac_fault_proxy.refuse()
    with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
        await asyncpg.connect(proxied)
    dotmac_fault_proxy.heal()
    await (await asyncpg.connect(proxied)).close()


@pytest.mark.parametrize("reset", [True, False])
async def test_it_cuts_every_open_connection(dotmac_fault_proxy, connection, reset):
    dotmac_fault_proxy.cut_all(reset=reset)
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
        await connection.execute("SELECT 1")
    async with asyncio.timeout(10):
        while dotmac_fault_proxy.open_connections:  # noqa: ASYNC110 - a proxy has no event for it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("directions", [(), ("to_server",), ("to_client",)])
async def test_a_black_hole_holds_traffic_until_healed(dotmac_fault_proxy, connection, directions):
    dotmac_fault_proxy.black_hole(*directions)
    waiting = asyncio.ensure_future(connection.fetchval("SELECT 7"))
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    dotmac_fault_proxy.heal()
    assert await waiting == 7


@pytest.mark.parametrize(("fault", "rows"), [("swallow_commit_acknowledgement", 1), ("cut_before_commit", 0)])
async def test_it_loses_a_commit_or_its_acknowledgement_once(
    dotmac_fault_proxy, dotmac_database, proxied, connection, fault, rows
):
    table = f"proxy_{fault}"
    await connection.execute(f"CREATE TABLE {table} (n int)")
    getattr(dotmac_fault_proxy, fault)()
    with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
        async with connection.transaction():
            await connection.execute(f"INSERT INTO {table} VALUES (1)")  # noqa: S608
    again = await asyncpg.connect(proxied)
    async with again.transaction():
        await again.execute("SELECT 1")
    assert await again.fetchval(f"SELECT count(*) FROM {table}") == rows  # noqa: S608
    await again.close()
