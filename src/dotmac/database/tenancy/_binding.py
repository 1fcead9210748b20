"""A session keeps the context it was made in; its transactions carry it to column defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.orm import Session

from dotmac.database.context import RequestContext, current_context
from dotmac.database.models._audit import CONTEXT_OPTION

if TYPE_CHECKING:
    from sqlalchemy import Connection

SESSION_KEY = "dotmac_context"
"""Where a session keeps its `RequestContext`, in ``session.info``."""


def bound_context(session: Any) -> RequestContext:
    """The context ``session`` (sync or async) is bound to; the one in force here if it is bound to none."""
    bound = session.info.get(SESSION_KEY)
    return bound if isinstance(bound, RequestContext) else current_context()


@event.listens_for(Session, "after_begin")
def _carry_context(session: Session, _transaction: object, connection: Connection) -> None:
    bound = session.info.get(SESSION_KEY)
    if bound is not None:
        connection.execution_options(**{CONTEXT_OPTION: bound})
