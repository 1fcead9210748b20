"""Counts the statements that reach the server, and says which they were when the count is wrong."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_BOOKKEEPING = ("BEGIN", "SAVEPOINT", "RELEASE SAVEPOINT", "ROLLBACK TO SAVEPOINT")


class StatementLog(list[str]):
    """The statements sent so far, in order and without their parameters."""

    def describe(self) -> str:
        """One numbered line per statement."""
        return (
            "\n".join(f"  {number}. {' '.join(sql.split())}" for number, sql in enumerate(self, 1))
            or "  (none)"
        )


@contextmanager
def count_statements(
    target: Any, *, exactly: int | None = None, at_most: int | None = None
) -> Iterator[StatementLog]:
    """Log the statements ``target`` sends during the block; BEGIN, COMMIT and savepoints do not count.

    Args:
        target: An engine, connection or session, sync or async.
        exactly: How many there must be.
        at_most: How many there may be.

    Raises:
        AssertionError: There were more, or fewer; the message lists them.
    """
    __tracebackhide__ = True
    from sqlalchemy import event  # noqa: PLC0415 - the plugin imports lightly

    log = StatementLog()

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(_BOOKKEEPING):
            log.append(statement)

    listened = _listenable(target)
    event.listen(listened, "before_cursor_execute", note)
    try:
        yield log
    finally:
        event.remove(listened, "before_cursor_execute", note)
    if exactly is not None and len(log) != exactly:
        raise AssertionError(
            f"Expected exactly {exactly} statements, {len(log)} were sent:\n{log.describe()}"
        )
    if at_most is not None and len(log) > at_most:
        raise AssertionError(
            f"Expected at most {at_most} statements, {len(log)} were sent:\n{log.describe()}"
        )


def _listenable(target: Any) -> Any:
    """The synchronous engine or connection behind ``target``."""
    for attribute in ("sync_session", "sync_engine", "sync_connection"):
        target = getattr(target, attribute, None) or target
    return target.get_bind() if hasattr(target, "get_bind") else target
