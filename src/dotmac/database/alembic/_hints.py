"""What to do about the server errors that migrations meet most, added to the error as a note."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

_LOCK_HINT: Final = (
    "Another session held a lock on this table for longer than lock_timeout, so the revision was given up and rolled "
    "back. Run it again when the table is quieter, end the long transaction, or pass run_migrations(lock_timeout=…)."
)
_TRANSACTION_HINT: Final = "This statement must run outside a transaction: put it inside `with op.get_context().autocommit_block():`."
_SEVERAL_HINT: Final = "asyncpg takes one statement at a time: give each its own op.execute()."

_BY_SQLSTATE: Final = {"55P03": _LOCK_HINT, "25001": _TRANSACTION_HINT}
_MYSQL_LOCK_WAIT: Final = 1205


def add_hint(error: DBAPIError) -> None:
    """Add a note that says what to do, where the error is a known one."""
    hint = _hint(error.orig)
    if hint is not None:
        error.add_note(hint)


def _hint(original: BaseException | None) -> str | None:
    sqlstate = getattr(original, "sqlstate", None)
    if isinstance(sqlstate, str) and sqlstate in _BY_SQLSTATE:
        return _BY_SQLSTATE[sqlstate]
    if sqlstate == "42601" and "multiple commands" in str(original):
        return _SEVERAL_HINT
    if original is not None and original.args[:1] == (_MYSQL_LOCK_WAIT,):
        return _LOCK_HINT
    return None
