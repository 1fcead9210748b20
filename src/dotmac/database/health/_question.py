"""What a server is asked: one statement that any user may run, whose answer also tells whether it can be written to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_STATEMENTS = {
    "postgresql": "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')",
    "mysql": "SELECT 0, @@global.read_only",
    "mariadb": "SELECT 0, @@global.read_only",
}
_ANY = "SELECT 1"


def statement_for(dialect_name: str) -> str:
    """One statement, one round trip."""
    return _STATEMENTS.get(dialect_name, _ANY)


def facts_from(dialect_name: str, row: Sequence[Any] | None) -> Mapping[str, Any]:
    """``in_recovery`` and ``read_only`` where the server tells.

    Raises:
        ValueError: There was no answer in the answer.
    """
    if row is None:
        raise ValueError("The server answered without a row.")
    if dialect_name not in _STATEMENTS:
        return {}
    in_recovery = bool(row[0])
    return {"in_recovery": in_recovery, "read_only": in_recovery or str(row[1]).lower() in {"on", "1"}}
