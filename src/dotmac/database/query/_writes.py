"""Who wants to know which tables a connection writes to: for what goes round the cursor, as COPY does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sqlalchemy import Connection

WRITES_OPTION = "dotmac_writes"
"""Execution option of a connection that holds its observer."""


class WritesObserver(Protocol):
    """Is told what cannot be seen at the cursor."""

    def inserted(self, table: str) -> None:
        """Rows were added to the table of that name."""
        ...


def tell_inserted(connection: Connection, table: str) -> None:
    """Tell the observer of ``connection``, if there is one."""
    observer: WritesObserver | None = connection.get_execution_options().get(WRITES_OPTION)
    if observer is not None:
        observer.inserted(table)
