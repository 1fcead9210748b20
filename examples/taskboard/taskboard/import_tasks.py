"""``python -m taskboard.import_tasks FILE --tenant T``: import tasks from CSV or JSON Lines.

Exit status: 0 every row landed, 1 it failed part-way or the database was not there, 2 wrong usage or a file that cannot
be read, 3 done, but some rows were left out, 130 interrupted. Batches are whole in every case.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dotmac.database import RequestContext, TenantId, use_context
from dotmac.database.errors import DatabaseError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from taskboard.database import get_async_db_connection
from taskboard.services.operations.import_ops import BATCH_ROWS, MAX_BATCH_ROWS, ImportReport, TaskImporter
from taskboard.services.operations.import_rows import FIELDS, Format, ImportFormatError, read_rows
from taskboard.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

OK, FAILED, USAGE, SOME_REFUSED, INTERRUPTED = 0, 1, 2, 3, 130
_SHOWN_PROBLEMS = 20
_FORMATS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Import the file; the exit status."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    options = _parser().parse_args(arguments)
    file_format = options.format or _FORMATS.get(options.file.suffix.lower())
    tenant = options.tenant or get_settings().tenant
    if file_format is None:
        console.print("Error: is this CSV or JSON Lines? Say --format csv or --format jsonl.")
        return USAGE
    if tenant is None:
        console.print("Error: whose tasks are these? Say --tenant, or set TASKBOARD_TENANT.")
        return USAGE
    report = ImportReport(resume_from=options.resume_from)
    try:
        with use_context(RequestContext(tenant_id=tenant, user_id=options.user)):
            _import(console, options, file_format, report)
    except ImportFormatError as error:
        console.print(f"Error: {error}")
        return USAGE
    except (Exception, KeyboardInterrupt, asyncio.CancelledError) as error:  # noqa: BLE001 - no traceback
        return _stopped(console, report, options, error)
    _summary(console, report, options)
    return SOME_REFUSED if report.problems else OK


def _import(console: Console, options: argparse.Namespace, file_format: Format, report: ImportReport) -> None:
    with options.file.open("rb") as stream:
        rows = read_rows(stream, file_format, delimiter=options.delimiter)
        importer = TaskImporter(
            get_async_db_connection().create_session,
            batch_rows=options.batch_size,
            create_users=options.create_users,
        )
        with _Bar(console, stream, options.file.stat().st_size) as show:
            asyncio.run(_until_signalled(importer.run(rows, report, show)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m taskboard.import_tasks",
        description=f"Import tasks. Fields: {', '.join(FIELDS)}. Rows that do not fit are reported by line number.",
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--tenant", type=_tenant, help="whose tasks they are (default: TASKBOARD_TENANT)")
    parser.add_argument("--user", help="goes to created_by")
    parser.add_argument("--format", choices=["csv", "jsonl"], help="default: by the file's extension")
    parser.add_argument("--delimiter", type=_delimiter, default=",", help="of CSV columns (default: ,)")
    parser.add_argument("--create-users", action="store_true", help="create users that do not exist")
    parser.add_argument(
        "--resume-from", type=_positive, default=1, metavar="LINE", help="leave out earlier lines"
    )
    parser.add_argument(
        "--batch-size",
        type=_batch_size,
        default=BATCH_ROWS,
        metavar="N",
        help=f"rows per transaction, up to {MAX_BATCH_ROWS} (default: {BATCH_ROWS})",
    )
    parser.add_argument(
        "--problems", type=Path, metavar="FILE", help="write all problems there, as JSON Lines"
    )
    return parser


def _tenant(text: str) -> str:
    try:
        return TenantId(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _delimiter(text: str) -> str:
    if len(text := {"tab": "\t", "\\t": "\t"}.get(text, text)) != 1:
        raise argparse.ArgumentTypeError("must be one character, or 'tab'")
    return text


def _batch_size(text: str) -> int:
    if (number := _positive(text)) > MAX_BATCH_ROWS:
        raise argparse.ArgumentTypeError(f"must be {MAX_BATCH_ROWS} or less")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


async def _until_signalled(work: Coroutine[Any, Any, object]) -> None:
    """Do ``work``; SIGTERM ends it the way of Ctrl-C, after the batch under way."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        await get_async_db_connection().dispose()


class _Bar:
    """A bar of bytes on a terminal; elsewhere a line per batch, so that a killed import has said how far it got."""

    def __init__(self, console: Console, stream: BinaryIO, size: int) -> None:
        self._console, self._stream = console, stream
        self._bar = Progress(
            TextColumn("Importing"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("import", total=size, said="")

    def __enter__(self) -> Callable[[ImportReport], None]:
        self._bar.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _show(self, report: ImportReport) -> None:
        said = f"{report.imported} imported, {report.refused} left out, committed before line {report.resume_from}"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=self._stream.tell(), said=said)
        elif not report.finished:
            self._console.print(said)


def _stopped(
    console: Console, report: ImportReport, options: argparse.Namespace, error: BaseException
) -> int:
    interrupted = isinstance(error, KeyboardInterrupt | asyncio.CancelledError)
    console.print("Interrupted." if interrupted else f"Error: {_explain(error)}")
    _summary(console, report, options)
    if report.committing is None:
        console.print(f"Go on with: --resume-from {report.resume_from}")
    else:
        first, last = report.committing
        console.print(
            f"Lines {first} to {last} were being committed, and the answer never came. Look whether their tasks are there, "
            f"then go on with --resume-from {last + 1} (they are) or --resume-from {first} (they are not)."
        )
    return INTERRUPTED if interrupted else FAILED


def _explain(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}" if error.filename else str(error)
    if isinstance(error, DatabaseError):
        return str(error)
    # Only the kind: a driver's message may quote rows.
    return f"the import failed ({type(getattr(error, 'orig', None) or error).__name__})."


def _summary(console: Console, report: ImportReport, options: argparse.Namespace) -> None:
    for problem in report.problems[:_SHOWN_PROBLEMS]:
        console.print(str(problem))
    if (more := len(report.problems) - _SHOWN_PROBLEMS) > 0:
        console.print(
            f"… and {more} more" + ("." if options.problems else "; --problems FILE keeps them all.")
        )
    if options.problems is not None:
        with options.problems.open("w", encoding="utf-8") as out:
            for problem in report.problems:
                out.write(
                    json.dumps({"line": problem.line, "field": problem.field, "reason": problem.reason})
                    + "\n"
                )
    print(f"{report.imported} imported, {report.refused} left out.")


if __name__ == "__main__":
    sys.exit(main())
