"""Import of tasks over HTTP: the body is the file."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, cast

from dotmac.database.fastapi import get_db
from fastapi import APIRouter, HTTPException, Request

from taskboard.api.common import PROBLEMS, TenantRequired
from taskboard.database.models import Schema
from taskboard.services.operations import TaskImporter
from taskboard.services.operations.import_rows import ImportFormatError, read_rows
from taskboard.settings import get_settings

if TYPE_CHECKING:
    from typing import BinaryIO

    from taskboard.services.operations.import_rows import Format

router = APIRouter(prefix="/tasks", tags=["tasks"], dependencies=[TenantRequired], responses=PROBLEMS)

_FORMATS: dict[str, Format] = {
    "text/csv": "csv",
    "application/x-ndjson": "jsonl",
    "application/jsonl": "jsonl",
}
_IN_MEMORY_BYTES = 1024 * 1024
_SHOWN_PROBLEMS = 1000


class Problem(Schema):
    """Why a row was left out; never what is in it."""

    line: int
    field: str | None
    reason: str


class ImportResult(Schema):
    """What became of a file. ``problems`` holds the first thousand."""

    imported: int
    refused: int
    problems: list[Problem]


@router.post("/import")
async def import_tasks(request: Request, *, create_users: bool = False) -> ImportResult:
    """CSV (``text/csv``) or JSON Lines (``application/x-ndjson``). Rows that fit land, in transactions of 1,000."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _FORMATS:
        raise HTTPException(415, f"Send {' or '.join(_FORMATS)}.")
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as file:
        received, most = 0, get_settings().max_import_bytes
        async for chunk in request.stream():
            received += len(chunk)
            if received > most:
                raise HTTPException(413, f"The file is larger than {most} bytes. Split it.")
            file.write(chunk)
        file.seek(0)
        try:
            rows = read_rows(cast("BinaryIO", file), _FORMATS[media_type])
        except ImportFormatError as error:
            raise HTTPException(422, str(error)) from None
        report = await TaskImporter(get_db, create_users=create_users).run(rows)
    return ImportResult(
        imported=report.imported,
        refused=report.refused,
        problems=[Problem.model_validate(problem) for problem in report.problems[:_SHOWN_PROBLEMS]],
    )
