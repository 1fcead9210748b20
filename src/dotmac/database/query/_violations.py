"""What a driver's refusal of a row means: one place that turns it into an error of ours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from dotmac.database.errors import (
    ConstraintViolationError,
    DatabaseError,
    DuplicateEntityError,
    ValidationError,
)

if TYPE_CHECKING:
    from dotmac.database.models import ModelShape

# PostgreSQL manual, appendix A, class 23.
_SQLSTATES = {
    "23505": "unique",
    "23503": "foreign_key",
    "23514": "check",
    "23502": "not_null",
    "23P01": "exclusion",
}
# MySQL 8.0 error reference, MariaDB error codes.
_MYSQL_CODES = {
    1062: "unique",
    1586: "unique",
    1451: "foreign_key",
    1452: "foreign_key",
    1216: "foreign_key",
    1217: "foreign_key",
    3819: "check",
    4025: "check",
    1048: "not_null",
    1364: "not_null",
}
_SQLITE_KINDS = {
    "UNIQUE constraint failed": "unique",
    "PRIMARY KEY": "unique",
    "FOREIGN KEY constraint failed": "foreign_key",
    "CHECK constraint failed": "check",
    "NOT NULL constraint failed": "not_null",
}
_DATA_ERROR_CLASS = "22"
_MYSQL_KEY = re.compile(r"for key '(?:[^'.]*\.)?([^']+)'$")
_MYSQL_CHECK = re.compile(r"(?:CONSTRAINT `([^`]+)` failed for|Check constraint '([^']+)' is violated)")
_SQLITE_COLUMNS = re.compile(r"constraint failed: ([\w., ]+)$")
_MESSAGES = {
    "foreign_key": "refers to a row that does not exist, or is referred to by another row",
    "check": "breaks a rule of the table",
    "not_null": "lacks a value that is required",
    "exclusion": "overlaps with another row",
    "integrity": "was refused by the database",
}


def translated(error: SQLAlchemyError, shape: ModelShape) -> DatabaseError | None:
    """The error that callers should see for a driver's; None if ours has nothing better to say."""
    if isinstance(error, DBAPIError):
        if isinstance(error, IntegrityError) or _is_mysql_refusal(error.orig):
            return _integrity(error, shape)
        if (sqlstate(error) or "").startswith(_DATA_ERROR_CLASS) or _refused_by_driver(error):
            return ValidationError(
                f"A value for {shape.name} does not fit its column (too long, out of range, or of another type).",
                model=shape.name,
            )
        return None
    if isinstance(error, StatementError) and isinstance(error.orig, ValueError | TypeError | ArithmeticError):
        return unfit(error.orig, shape)
    return None


def unfit(error: Exception, shape: ModelShape) -> DatabaseError:
    """The error for a value that a column's type refused, before anything was sent."""
    if isinstance(error, DatabaseError):
        return error
    return ValidationError(f"A value for {shape.name} does not fit: {error}", model=shape.name)


def sqlstate(error: DBAPIError) -> str | None:
    """The SQLSTATE of a driver's error, on any PostgreSQL driver."""
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return str(code) if code else None


def _refused_by_driver(error: DBAPIError) -> bool:
    # asyncpg and psycopg check arguments before anything is sent: no SQLSTATE, and a cause of their own.
    cause = getattr(error.orig, "__cause__", None)
    return type(cause).__name__ == "DataError" or (
        type(error.orig).__name__ == "DataError" and sqlstate(error) is None
    )


def _is_mysql_refusal(original: Any) -> bool:
    # Drivers take a broken CHECK for an operational error.
    args: tuple[Any, ...] = getattr(original, "args", ())
    return bool(args) and args[0] in _MYSQL_CODES


def _integrity(error: DBAPIError, shape: ModelShape) -> DatabaseError:
    kind, constraint = _kind(error.orig), _constraint(error.orig, shape)
    if kind == "unique":
        return DuplicateEntityError(shape.name, constraint)
    named = f" (constraint {constraint!r})" if constraint else ""
    return ConstraintViolationError(
        f"A row of {shape.name} {_MESSAGES[kind]}{named}.", model=shape.name, constraint=constraint, kind=kind
    )


def _kind(original: Any) -> str:
    state = getattr(original, "sqlstate", None)
    if state in _SQLSTATES:
        return _SQLSTATES[state]
    args = getattr(original, "args", ())
    if args and args[0] in _MYSQL_CODES:
        return _MYSQL_CODES[args[0]]
    text = str(original)
    return next((kind for start, kind in _SQLITE_KINDS.items() if start in text), "integrity")


def _constraint(original: Any, shape: ModelShape) -> str | None:
    for source in (getattr(original, "diag", None), getattr(original, "__cause__", None), original):
        name = getattr(source, "constraint_name", None)
        if isinstance(name, str):
            return name
    text = str(original.args[1]) if len(getattr(original, "args", ())) > 1 else str(original)
    if found := _MYSQL_KEY.search(text):
        return found[1]
    if found := _MYSQL_CHECK.search(text):
        return found[1] or found[2]
    if found := _SQLITE_COLUMNS.search(text):
        return _by_columns(found[1], shape)
    return None


def _by_columns(listed: str, shape: ModelShape) -> str:
    """SQLite names columns (or a CHECK constraint), not the unique constraint: find it."""
    columns = {part.strip().rpartition(".")[2] for part in listed.split(",")}
    candidates: list[Any] = [
        *shape.table.constraints,
        *(index for index in shape.table.indexes if index.unique),
    ]
    for candidate in candidates:
        named = {column.name for column in getattr(candidate, "columns", ())}
        if named == columns and candidate.name:
            return str(candidate.name)
    return listed.strip()
