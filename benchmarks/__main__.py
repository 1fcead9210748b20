"""Runs the comparisons and prints the table: ``scripts/bench [--rounds N] [--only TEXT] [--json] [--pg-url URL]``."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from typing import Any

import asyncpg
from benchmarks import health, tenants, transactions
from benchmarks.cases import Bench, build, deep_page
from benchmarks.harness import Case, Timing, micros, ratio, run
from benchmarks.models import Ticket, row
from rich.console import Console
from rich.table import Table
from sqlalchemy import select, text

from dotmac.database import AsyncRepository, create_async_engine, create_session_factory
from dotmac.database.embedded import EmbeddedPostgres
from dotmac.database.tenancy import TenantDirectory


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=15, help="counted rounds of each comparison (default 15)"
    )
    parser.add_argument("--only", default="", help="only comparisons whose name contains this")
    parser.add_argument("--rows", type=int, default=1_000_000, help="how deep the deep cursor page lies")
    parser.add_argument(
        "--pg-url", help="a PostgreSQL to use (an empty database) instead of the embedded one"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    server: Any = nullcontext() if options.pg_url else EmbeddedPostgres()
    with server:
        url = options.pg_url or server.url(driver=None)
        report = asyncio.run(_compare(url, options))
    if options.only in "import":
        report.append(_imports(options.rounds))
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)


async def _compare(url: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    plain_url = url.replace("postgresql+asyncpg://", "postgresql://")
    engine = create_async_engine(plain_url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=2)
    sessions = create_session_factory(engine)
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE IF EXISTS tickets"))
        await connection.run_sync(Ticket.metadata.create_all)
    async with sessions.begin() as session:
        await AsyncRepository(session, Ticket).bulk_create([row(i) for i in range(10_000)], returning=False)
        ids = list(await session.scalars(select(Ticket.id).limit(1000)))
    await TenantDirectory(engine).install()
    raw = await asyncpg.connect(plain_url)
    await raw.execute("VACUUM ANALYZE tickets")
    bench = Bench(engine, sessions, raw, ids)
    wanted = [
        case
        for room in (build, transactions.build, health.build, tenants.build)
        for case in room(bench)
        if options.only in case.name
    ]
    report = [_figures(case, await run(case, options.rounds)) for case in wanted]
    if options.only in "cursor page":
        case = await deep_page(bench, options.rows)
        report.append(_figures(case, await run(case, options.rounds)))
    await raw.close()
    await engine.dispose()
    return report


def _figures(case: Case, timings: dict[str, Timing]) -> dict[str, Any]:
    baseline = next(iter(timings))
    best = baseline
    if case.name.startswith("page"):  # the best plain form
        best = min(
            (name for name in timings if name.startswith("plain")),
            key=lambda name: statistics.median(timings[name].wall),
        )
    contenders = [
        {
            "name": name,
            "wall_us": round(micros(timing.wall), 3),
            "cpu_us": round(micros(timing.cpu), 3),
            "wall_ratio": round(ratio(timing, timings[best], "wall"), 3),
            "cpu_ratio": round(ratio(timing, timings[best], "cpu"), 3),
        }
        for name, timing in timings.items()
    ]
    return {"case": case.name, "baseline": best, "bar": case.bar, "contenders": contenders}


def _imports(rounds: int) -> dict[str, Any]:
    timings = {"import sqlalchemy.orm": Timing(), "dotmac": Timing(), "… and its repositories": Timing()}
    code = {
        "import sqlalchemy.orm": "import sqlalchemy.orm",
        "dotmac": "import dotmac.database",
        "… and its repositories": "from dotmac.database import BaseModel, BaseRepository, QueryOptions",
    }
    for number in range(rounds + 1):
        for name, statement in code.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)  # noqa: S603 - our own statement
            if number:
                timings[name].wall.append(time.perf_counter() - start)
                timings[name].cpu.append(0.0)
    report = _figures(Case("import", {}, 1, bar=1.15), timings)
    for contender in report["contenders"]:
        contender["cpu_us"] = contender["cpu_ratio"] = None
    return report


def _print(report: list[dict[str, Any]]) -> None:
    table = Table(title="Median per piece of work; ratios are medians of the ratio within a round")
    for heading in ("comparison", "contender", "wall", "CPU", "wall ratio", "CPU ratio", "bar"):
        table.add_column(heading, justify="left" if heading in {"comparison", "contender"} else "right")
    for entry in report:
        for contender in entry["contenders"]:
            ours = contender["name"] == "dotmac"
            bar = f"<= {entry['bar']:.2f}" if ours and entry["bar"] else ""
            table.add_row(
                entry["case"] if contender is entry["contenders"][0] else "",
                contender["name"],
                _time(contender["wall_us"]),
                _time(contender["cpu_us"]),
                f"{contender['wall_ratio']:.2f}",
                "" if contender["cpu_ratio"] is None else f"{contender['cpu_ratio']:.2f}",
                bar,
                style="bold" if ours else None,
            )
        table.add_section()
    Console(width=130).print(table)


def _time(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value / 1000:,.2f} ms" if value >= 1000 else f"{value:,.{0 if value >= 10 else 2}f} us"


if __name__ == "__main__":
    main()
