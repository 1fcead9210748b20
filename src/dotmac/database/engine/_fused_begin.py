"""Driver connections that send a transaction's context in the message of its BEGIN: no round trip of its own.

The SQL is put on the driver connection before the transaction begins (`dotmac.database.tenancy`), goes out once, and is
taken off again when the connection returns to its pool unused.
"""

from __future__ import annotations

import secrets
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine


@lru_cache(maxsize=8)
def asyncpg_class(base: type[Any] | None = None) -> type[Any]:
    """A subclass of ``base``, by default of asyncpg's connection."""
    import asyncpg  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra

    parent: Any = base or asyncpg.Connection

    class Connection(parent):  # type: ignore[misc]
        """Sends ``dotmac_begin`` with the next BEGIN, as one simple query."""

        __slots__ = ("dotmac_begin",)

        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.dotmac_begin: str | None = None

        async def execute(self, query: str, *arguments: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109 - asyncpg's signature
            if self.dotmac_begin is not None and query.startswith("BEGIN"):
                query, self.dotmac_begin = f"{query.rstrip(';')}; {self.dotmac_begin}", None
            result: str = await super().execute(query, *arguments, timeout=timeout)
            return result

    return Connection


@lru_cache(maxsize=1)
def psycopg_classes() -> tuple[type[Any], type[Any]]:
    """Subclasses of psycopg's blocking and asyncio connections."""
    import psycopg  # noqa: PLC0415 - an extra

    return _fused(psycopg.Connection), _fused(psycopg.AsyncConnection)


def _fused(parent: Any) -> type[Any]:
    from psycopg import generators, pq  # noqa: PLC0415 - an extra
    from psycopg.errors import error_from_result  # noqa: PLC0415 - an extra

    class Connection(parent):  # type: ignore[misc]
        """Sends ``dotmac_begin`` with the next BEGIN, as one simple query."""

        dotmac_begin: str | None = None

        def _start_query(self) -> Any:
            context = self.dotmac_begin
            if (
                context is None
                or self._autocommit
                or self.pgconn.transaction_status != pq.TransactionStatus.IDLE
            ):
                yield from super()._start_query()
                return
            self.dotmac_begin = None
            if self._pipeline:  # executemany; here a message holds one statement
                yield from self._exec_command(self._get_tx_start_command())
                yield from self._exec_command(_as_one_statement(context))
                yield from self._pipeline._sync_gen()  # noqa: SLF001 - as psycopg does
                return
            encoding = self.info.encoding
            self.pgconn.send_query(b"%s; %s" % (self._get_tx_start_command(), context.encode(encoding)))
            for result in (yield from generators.execute(self.pgconn)):
                if result.status == pq.ExecStatus.FATAL_ERROR:
                    raise error_from_result(result, encoding=encoding)

    return Connection


def _as_one_statement(context: str) -> str:
    """``SET LOCAL`` statements as one: what a block sets lasts as long as the transaction does."""
    tag = "$dotmac$"
    while tag in context:
        tag = f"$dotmac{secrets.token_hex(4)}$"
    return f"DO {tag} BEGIN {context} END {tag}"


def install(engine: Engine, *, blocking_psycopg: bool) -> None:
    """Open ``engine``'s psycopg connections as fused ones, and leave no context behind on pooled connections."""
    if blocking_psycopg:

        @event.listens_for(engine, "do_connect")
        def connect(_dialect: Any, _entry: Any, arguments: list[Any], keywords: dict[str, Any]) -> Any:
            return psycopg_classes()[0].connect(*arguments, **keywords)

    @event.listens_for(engine, "checkin")
    def forget(connection: Any, _entry: Any) -> None:
        driver = getattr(connection, "driver_connection", connection)
        if getattr(driver, "dotmac_begin", None) is not None:
            driver.dotmac_begin = None
