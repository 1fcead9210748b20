"""What one tenant may use: rows of a table, time of a statement, sessions at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dotmac.database.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Quotas:
    """What one tenant may use; what is left out is not limited.

    Attributes:
        rows: How many rows it may have, by name of the table. Counted by the server: see `docs/tenants.md`.
        statement_timeout: The longest time one of its statements may take; whole milliseconds.
        connections: How many sessions it may have open at once in one process.

    Example:
        >>> Quotas(rows={"invoices": 10_000}, statement_timeout=timedelta(seconds=5), connections=8).connections
        8

    Raises:
        ValidationError: A limit is negative, or no whole number.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    statement_timeout: timedelta | None = None
    connections: int | None = None

    def __post_init__(self) -> None:
        for table, limit in self.rows.items():
            _check(f"rows of {table!r}", limit, least=0)
        if self.connections is not None:
            _check("connections", self.connections, least=1)
        if self.statement_timeout is not None and self.statement_timeout < timedelta(milliseconds=1):
            raise ValidationError("The quota statement_timeout is at least 1 ms.", field="quotas")
        object.__setattr__(self, "rows", MappingProxyType(dict(self.rows)))

    def to_json(self) -> dict[str, Any]:
        """As the directory stores them: only what is limited."""
        stored: dict[str, Any] = {}
        if self.rows:
            stored["rows"] = dict(self.rows)
        if self.statement_timeout is not None:
            stored["statement_timeout_ms"] = round(self.statement_timeout / timedelta(milliseconds=1))
        if self.connections is not None:
            stored["connections"] = self.connections
        return stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> Quotas:
        """The inverse of `to_json`; what it does not know is left alone."""
        stored = stored or {}
        milliseconds = stored.get("statement_timeout_ms")
        return cls(
            rows=stored.get("rows") or {},
            statement_timeout=None if milliseconds is None else timedelta(milliseconds=milliseconds),
            connections=stored.get("connections"),
        )


def _check(what: str, limit: object, *, least: int) -> None:
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < least:
        raise ValidationError(f"The quota of {what} is a whole number, at least {least}.", field="quotas")
