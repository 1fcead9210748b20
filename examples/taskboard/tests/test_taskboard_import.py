"""Import into the database: whole batches, everything accounted for, and the command's exit status."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dotmac.database import RequestContext, use_context
from sqlalchemy.ext.asyncio import AsyncSession

from taskboard.database import TaskboardDatabase
from taskboard.database.models import Task, TaskStatus, User
from taskboard.database.repositories import TaskRepository, UserRepository
from taskboard.services.operations import ImportReport, TaskImporter
from taskboard.services.operations.import_rows import read_rows

ROOT = Path(__file__).resolve().parents[1]
tasks = TaskRepository()


def _csv(*rows: str, header: str = "title,username") -> str:
    return "\n".join((header, *rows)) + "\n"


async def _import(
    database: TaskboardDatabase, text: str, *, report: ImportReport | None = None, **options: Any
) -> ImportReport:
    with use_context(RequestContext(tenant_id="acme", user_id="importer")):
        rows = read_rows(io.BytesIO(text.encode()), "csv")
        return await TaskImporter(database.create_session, **options).run(rows, report)


async def test_good_rows_land_and_bad_ones_are_named(
    database: TaskboardDatabase, session: AsyncSession, user: User
) -> None:
    text = _csv(
        "One,newcomer,completed",
        ",newcomer,",
        "Three,stranger,",
        "Four,newcomer,",
        header="title,username,status",
    )
    report = await _import(database, text)
    assert (report.imported, report.refused, report.finished) == (2, 2, True)
    assert [str(problem) for problem in report.problems] == [
        "line 3: title is missing",
        "line 4: username is no user of this tenant",
    ]
    found = await tasks.get_by_user(session, user.id)
    assert {(task.title, task.status, task.completed_at is not None) for task in found} == {
        ("One", TaskStatus.COMPLETED, True),
        ("Four", TaskStatus.PENDING, False),
    }
    assert {task.created_by for task in found} == {"importer"}


async def test_users_are_created_when_asked(database: TaskboardDatabase, session: AsyncSession) -> None:
    report = await _import(database, _csv("One,a", "Two,b", "Three,a"), create_users=True)
    assert report.imported == 3
    assert sorted(await UserRepository().ids_by_username(session, ["a", "b", "c"])) == ["a", "b"]


@pytest.mark.parametrize("rows", [10, 1200], ids=["by insert", "by copy"])
async def test_ids_that_exist_are_refused_deleted_ones_included(
    database: TaskboardDatabase, session: AsyncSession, user: User, rows: int
) -> None:
    taken = await tasks.create(session, {"title": "Here", "user_id": user.id})
    gone = await tasks.create(session, {"title": "Gone", "user_id": user.id})
    await tasks.delete(session, gone.id)
    await session.commit()
    lines = [f"Task {n},newcomer," for n in range(rows)]
    text = _csv(f"A,newcomer,{taken.id}", *lines, f"B,newcomer,{gone.id}", header="title,username,id")
    report = await _import(database, text)
    assert report.imported == rows
    assert [(problem.line, problem.reason) for problem in report.problems] == [
        (2, "exists already"),
        (rows + 3, "exists already"),
    ]


async def test_rows_the_database_refuses_are_found_among_good_ones(
    database: TaskboardDatabase, session: AsyncSession, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = await tasks.create(session, {"title": "Here", "user_id": user.id})
    await session.commit()

    async def sees_nothing(*_: object) -> set[Any]:
        return set()

    # As when another import inserts the id between our look and our INSERT.
    monkeypatch.setattr(TaskImporter, "_taken_ids", sees_nothing)
    lines = [f"Task {n},newcomer," for n in range(20)]
    report = await _import(
        database, _csv(*lines[:7], f"A,newcomer,{taken.id}", *lines[7:], header="title,username,id")
    )
    assert report.imported == 20
    assert [str(problem) for problem in report.problems] == ["line 9: was refused by the database"]


async def test_a_failure_leaves_whole_batches_and_says_where_to_go_on(
    database: TaskboardDatabase, session: AsyncSession, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = _csv(*(f"Task {n},newcomer" for n in range(25)))
    write, batches = TaskImporter._write, 0

    async def fails_in_the_third(self: TaskImporter, *arguments: Any) -> Any:
        nonlocal batches
        batches += 1
        result = await write(self, *arguments)
        if batches == 3:
            raise ConnectionResetError
        return result

    report = ImportReport()
    with monkeypatch.context() as patched:
        patched.setattr(TaskImporter, "_write", fails_in_the_third)
        with pytest.raises(ConnectionResetError):
            await _import(database, text, report=report, batch_rows=10)
    assert (report.imported, report.resume_from, report.finished) == (20, 22, False)
    assert await tasks.count(session) == 20

    resumed = await _import(database, text, report=ImportReport(resume_from=22), batch_rows=10)
    assert resumed.imported == 5
    found = await tasks.get_by_user(session, user.id)
    assert sorted(task.title for task in found) == sorted(f"Task {n}" for n in range(25))


async def test_a_cancelled_import_finishes_the_batch_under_way(
    database: TaskboardDatabase, session: AsyncSession, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, begun = TaskImporter._write, asyncio.Event()

    async def tells(self: TaskImporter, *arguments: Any) -> Any:
        begun.set()
        return await write(self, *arguments)

    monkeypatch.setattr(TaskImporter, "_write", tells)
    report = ImportReport()
    text = _csv(*(f"Task {n},newcomer" for n in range(50)))
    running = asyncio.ensure_future(_import(database, text, report=report, batch_rows=10))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (report.imported, report.resume_from, report.committing) == (10, 12, None)
    assert await tasks.count(session) == 10


def _run(url: str, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "taskboard.import_tasks", *arguments],
        cwd=ROOT, env=os.environ | {"DATABASE_URL": url}, capture_output=True, text=True, check=False, **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "arguments", "status", "says"),
    [
        ("title,username\nOne,u\n", ["--create-users"], 0, "1 imported, 0 left out."),
        ("title,username\nOne,SECRET\n", [], 3, "line 2: username is no user of this tenant"),
        ("", [], 2, "The file is empty."),
        ("titel,username\n", [], 2, "unknown: column 1; missing: title"),
        ("title,username\n", ["--batch-size", "0"], 2, "must be 1 or more"),
        ("title,username\n", ["--delimiter", "ab"], 2, "one character"),
        ("title,username\n", ["--tenant", ""], 2, "tenant id must not be empty"),
    ],
)
def test_the_command_says_what_it_did_and_exits_by_it(
    database_url: str, tmp_path: Path, content: str, arguments: list[str], status: int, says: str
) -> None:
    file = tmp_path / "tasks.csv"
    file.write_text(content)
    done = _run(database_url, str(file), "--tenant", f"t{status}", *arguments)
    output = done.stdout + done.stderr
    assert done.returncode == status, output
    assert says in output
    assert "Traceback" not in output
    assert "SECRET" not in output


def test_the_command_names_a_missing_file_and_a_missing_database(tmp_path: Path, database_url: str) -> None:
    missing = _run(database_url, str(tmp_path / "no.csv"), "--tenant", "acme")
    assert (missing.returncode, "No such file" in missing.stderr) == (1, True)
    file = tmp_path / "tasks.csv"
    file.write_text(_csv("One,u"))
    gone = _run("postgresql+asyncpg://x:SECRET@127.0.0.1:1/x", str(file), "--tenant", "acme")
    assert gone.returncode == 1
    assert "Go on with: --resume-from 1" in gone.stderr
    assert "SECRET" not in gone.stderr
    assert "Traceback" not in gone.stderr


def test_all_problems_go_to_a_file(database_url: str, tmp_path: Path) -> None:
    file, problems = tmp_path / "tasks.jsonl", tmp_path / "problems.jsonl"
    file.write_text("{}\n" * 30)
    done = _run(database_url, str(file), "--tenant", "acme", "--problems", str(problems))
    assert done.returncode == 3
    written = [json.loads(line) for line in problems.read_text().splitlines()]
    assert written[0] == {"line": 1, "field": "title", "reason": "is missing"}
    assert len(written) == 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_command_after_a_whole_batch(
    database: TaskboardDatabase, database_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    file = tmp_path / "tasks.csv"
    file.write_text(_csv(*(f"Task {n},u" for n in range(100_000))))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "taskboard.import_tasks", str(file), "--tenant", "acme", "--create-users", "--batch-size", "100",
        cwd=ROOT, env=os.environ | {"DATABASE_URL": database_url}, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stderr is not None
    await process.stderr.readline()  # the first batch is in
    process.send_signal(number)
    said = (await process.stderr.read()).decode()
    assert await process.wait() == 130
    resume_from = int(said.rpartition("--resume-from ")[2])
    with use_context(RequestContext(tenant_id="acme")):
        async with database.create_session() as session:
            assert await tasks.count(session) == resume_from - 2
            first: Task = (await tasks.get_multi(session, limit=1))[0]
            assert first.title == "Task 0"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_a_terminal_sees_a_progress_bar(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "tasks.csv"
    file.write_text(_csv(*(f"Task {n},u" for n in range(3000))))
    ours, theirs = os.openpty()
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "taskboard.import_tasks", str(file), "--tenant", "tty", "--create-users"],
        cwd=ROOT, env=os.environ | {"DATABASE_URL": database_url, "TERM": "xterm", "COLUMNS": "200"},
        stdout=subprocess.PIPE, stderr=theirs, text=True, check=False,
    )  # fmt: skip
    os.close(theirs)
    said = os.read(ours, 1_000_000).decode(errors="replace")
    os.close(ours)
    assert (done.returncode, done.stdout) == (0, "3000 imported, 0 left out.\n"), said
    assert "100%" in said
