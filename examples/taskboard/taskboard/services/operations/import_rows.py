"""A CSV or JSON Lines file to checked rows, each with its line number, and problems that never quote the data."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import pydantic
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from taskboard.database.models import Schema, TaskStatus
from taskboard.database.models.task import Description, Title
from taskboard.database.models.user import Username

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic_core import ErrorDetails

Format = Literal["csv", "jsonl"]

MAX_LINE_CHARS = 1024 * 1024
_BOMS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_CSV_REASONS = {
    "line too long": f"the line is longer than {MAX_LINE_CHARS} characters",
    "field larger": f"a field is longer than {csv.field_size_limit()} characters",
    "unexpected end": "a quoted field is never closed",
    "expected after": "text follows the closing quote of a field",
}
_FIELD_REASONS = {
    "missing": "is missing",
    "string_too_short": "is empty",
    "string_too_long": "is longer than {max_length} characters",
    "string_type": "is not text",
    "string_unicode": "is not valid UTF-8 text",
    "enum": "is none of {expected}",
    "nul": "holds a NUL character",
}


class ImportFormatError(ValueError):
    """The file as a whole cannot be read; nothing was imported."""


class TaskImportRow(Schema):
    """What a row may hold. ``username`` names the user the task is for."""

    title: Title
    username: Username
    description: Description | None = None
    status: TaskStatus = TaskStatus.PENDING
    id: uuid.UUID | None = Field(default=None, description="Refused if the tenant has a task of that id.")

    @field_validator("status", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.strip().upper() if isinstance(value, str) else value

    @field_validator("title", "username", "description")
    @classmethod
    def _storable(cls, value: str | None) -> str | None:
        if value is not None and "\x00" in value:
            raise PydanticCustomError("nul", "holds a NUL character")
        return value


FIELDS = tuple(TaskImportRow.model_fields)
_REQUIRED = {name for name, field in TaskImportRow.model_fields.items() if field.is_required()}


@dataclass(frozen=True, slots=True)
class Row:
    """One row that fits; ``line`` is its first line in the file, ``last_line`` its last."""

    line: int
    last_line: int
    task: TaskImportRow


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why a row was left out. Holds the name of a field, never what is in it."""

    line: int
    field: str | None
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.field + ' ' if self.field else ''}{self.reason}"


def read_rows(stream: BinaryIO, file_format: Format, *, delimiter: str = ",") -> Iterator[Row | RowProblem]:
    """The rows of a file, in order, one at a time; the header and encoding are checked before the first.

    UTF-8, with or without a byte order mark; any line ends. Blank lines are passed over. A row that equals an earlier
    one, or has its id, is a problem.

    Raises:
        ImportFormatError: The file is empty, not UTF-8 text, or has a wrong header.
    """
    lines = _Lines(_as_text(stream))
    records = _csv_records(lines, delimiter) if file_format == "csv" else _json_records(lines)
    return _checked(records, lines)


class _Lines:
    """Physical lines, counted, and of bounded length."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.number = 0
        self.quotes = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = part = self._text.readline(MAX_LINE_CHARS)
        if not line:
            raise StopIteration
        self.number += 1
        self.quotes += line.count('"')
        while len(part) == MAX_LINE_CHARS and part[-1] not in "\r\n":
            part = self._text.readline(MAX_LINE_CHARS)
            self.quotes += part.count('"')
        if part is not line and part:
            raise csv.Error("line too long")
        return line


class _BorrowedText(io.TextIOWrapper):
    """Text over a stream that stays its owner's: the end of the text does not close it."""

    def close(self) -> None:
        pass


def _as_text(stream: BinaryIO) -> io.TextIOWrapper:
    buffered = io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream
    start = buffered.read(1024)
    buffered.seek(0)
    if not start.strip():
        raise ImportFormatError("The file is empty.")
    for mark, name in _BOMS:
        if start.startswith(mark):
            raise ImportFormatError(
                f"The file is {name}, and UTF-8 is needed. Convert it: iconv -f {name} -t UTF-8 FILE"
            )
    if start.count(0) > len(start) // 10:
        raise ImportFormatError(
            "The file holds NUL bytes: it is binary, or UTF-16 without a mark. Save it as UTF-8 text."
        )
    # What is not UTF-8 becomes surrogates, so that one row is refused for it and not the file.
    return _BorrowedText(buffered, encoding="utf-8-sig", errors="surrogateescape", newline="")


_Record = tuple[int, dict[Any, Any] | RowProblem]


def _csv_records(lines: _Lines, delimiter: str) -> Iterator[_Record]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader)]
    except csv.Error as error:
        raise ImportFormatError(f"The header cannot be read: {_csv_reason(error)}.") from None
    _check_header(header, delimiter)
    return _csv_body(reader, header, lines)


def _csv_body(reader: Any, header: list[str], lines: _Lines) -> Iterator[_Record]:
    while True:
        line, lines.quotes = lines.number + 1, 0
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # Only within one line whose quotes pair up is it clear where the next row begins.
            contained = lines.number == line and lines.quotes % 2 == 0
            rest = "" if contained else "; nothing from here on was read"
            yield line, RowProblem(line, None, _csv_reason(error) + rest)
            if not contained:
                return
            continue
        if len(values) == len(header):
            yield line, {name: value for name, value in zip(header, values, strict=True) if value.strip()}
        elif values:
            reason = f"there are {len(values)} fields, and {len(header)} columns in the header"
            yield line, RowProblem(line, None, reason)


def _csv_reason(error: csv.Error) -> str:
    return next((reason for words, reason in _CSV_REASONS.items() if words in str(error)), "not valid CSV")


def _check_header(header: list[str], delimiter: str) -> None:
    # Unknown columns by number: where the header is missing, their names are the first row's data.
    unknown = [f"column {number}" for number, name in enumerate(header, 1) if name not in FIELDS]
    missing = sorted(_REQUIRED.difference(header))
    repeated = sorted({name for name in header if name in FIELDS and header.count(name) > 1})
    problems = [
        f"{what} {', '.join(names)}"
        for what, names in (("unknown:", unknown), ("missing:", missing), ("more than once:", repeated))
        if names
    ]
    if not problems:
        return
    hint = next((other for other in ";\t,|" if other != delimiter and other in header[0]), None)
    advice = f" If columns are separated by {hint!r}, say so (--delimiter)." if hint else ""
    raise ImportFormatError(
        f"The header does not fit ({'; '.join(problems)}). Columns are: {', '.join(FIELDS)}.{advice}"
    )


def _json_records(lines: _Lines) -> Iterator[_Record]:
    while True:
        try:
            text = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield lines.number, RowProblem(lines.number, None, _csv_reason(error))
            continue
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = None
        is_object = isinstance(record, dict)
        yield lines.number, record if is_object else RowProblem(lines.number, None, "not a JSON object")


def _checked(records: Iterator[_Record], lines: _Lines) -> Iterator[Row | RowProblem]:
    seen: dict[bytes, int] = {}
    for line, record in records:
        if isinstance(record, RowProblem):
            yield record
            continue
        try:
            task = TaskImportRow.model_validate(record)
        except pydantic.ValidationError as error:
            details = error.errors(include_input=False, include_url=False)
            yield from (_problem(line, detail) for detail in details)
            continue
        first = seen.setdefault(_fingerprint(task), line)
        if first == line:
            yield Row(line, lines.number, task)
        elif task.id is None:
            yield RowProblem(line, None, f"the same as line {first}")
        else:
            yield RowProblem(line, "id", f"is that of line {first} too")


def _fingerprint(task: TaskImportRow) -> bytes:
    key = task.id.bytes if task.id is not None else task.model_dump_json().encode()
    return hashlib.blake2b(key, digest_size=16).digest()


def _problem(line: int, detail: ErrorDetails) -> RowProblem:
    name = str(detail["loc"][0]) if detail["loc"] else None
    if detail["type"] == "extra_forbidden":
        return RowProblem(line, None, f"there is an unknown field; fields are: {', '.join(FIELDS)}")
    reason = _FIELD_REASONS.get(detail["type"], "does not fit")
    return RowProblem(line, name, reason.format(**detail.get("ctx", {})))
