"""Keep row data out of error messages: servers and drivers quote the offending values, and messages end up in logs.

The constraint, the column and the SQLSTATE stay; psycopg's ``diag`` keeps the details for code that wants them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine, ExceptionContext

# PostgreSQL Appendix A: 22 is a data exception (quotes the input), 23 a constraint violation (quotes the row).
_QUOTING_CLASSES = ("22", "23")
# 1062 duplicate entry, 1264/1292/1366/1367/1406/1411 values that do not fit, 1525 wrong value.
_QUOTING_NUMBERS = frozenset({1062, 1264, 1292, 1366, 1367, 1406, 1411, 1525})
_HIDDEN = "…"
_DETAIL = re.compile(r"\n(?:DETAIL|CONTEXT):.*?(?=\n(?:HINT|LINE \d+|\[SQL):|\Z)", re.DOTALL)
_QUOTED = re.compile(r": (\"|').*\1", re.DOTALL)
_ENTRY = re.compile(r"(entry|value:?) '.*' (?=for )", re.DOTALL)
_ARGUMENT = re.compile(r"(query argument \$\d+).*", re.DOTALL)


def install(engine: Engine) -> None:
    """Redact the messages of every error that ``engine`` raises."""

    @event.listens_for(engine, "handle_error")
    def redact(context: ExceptionContext) -> None:
        errors = list(_with_causes(context.original_exception))
        if not any(_quotes_data(error) for error in errors):
            return
        if context.sqlalchemy_exception is not None:
            errors.append(context.sqlalchemy_exception)
        for error in errors:
            error.args = tuple(_redacted(part) if isinstance(part, str) else part for part in error.args)
            if isinstance(getattr(error, "sqlstate", None), str) and isinstance(
                getattr(error, "detail", None), str
            ):
                error.detail = None  # type: ignore[attr-defined]


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    at: BaseException | None = error
    passed: set[int] = set()
    while at is not None and id(at) not in passed:  # an error raised again may be its own cause
        passed.add(id(at))
        yield at
        at = at.__cause__


def _quotes_data(error: Any) -> bool:
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return state.startswith(_QUOTING_CLASSES)
    number = error.args[0] if error.args else None
    return number in _QUOTING_NUMBERS if isinstance(number, int) else "query argument $" in str(number)


def _redacted(message: str) -> str:
    for pattern, replacement in (
        (_DETAIL, ""),
        (_ENTRY, rf"\1 '{_HIDDEN}' "),
        (_QUOTED, rf": \1{_HIDDEN}\1"),
        (_ARGUMENT, r"\1: a value of the wrong type"),
    ):
        message = pattern.sub(replacement, message)
    return message
