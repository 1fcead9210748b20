"""Who wrote a row, and in which request: filled from the request context on every path that writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from dotmac.database.context import current_context

if TYPE_CHECKING:
    from sqlalchemy.engine.default import DefaultExecutionContext

    from dotmac.database.context import RequestContext

CONTEXT_OPTION = "dotmac_context"
"""Execution option under which the work of a session, with its context, reaches a connection's statements."""


def _context(execution: DefaultExecutionContext) -> RequestContext:
    work = execution.execution_options.get(CONTEXT_OPTION)
    return current_context() if work is None else work.context  # see tenancy/_guard/_work.py


def _user_id(execution: DefaultExecutionContext) -> str | None:
    return _context(execution).user_id


def _request_id(execution: DefaultExecutionContext) -> str | None:
    return _context(execution).request_id


class AuditMixin:
    """``created_by``, ``updated_by`` and ``request_id``, from the session's `RequestContext`.

    They are column defaults: ORM flush, bulk, upsert and plain Core statements all fill them.
    """

    created_by: Mapped[str | None] = mapped_column(String(255), default=_user_id, sort_order=910)
    updated_by: Mapped[str | None] = mapped_column(
        String(255), default=_user_id, onupdate=_user_id, sort_order=911
    )
    request_id: Mapped[str | None] = mapped_column(
        String(255), default=_request_id, onupdate=_request_id, sort_order=912
    )
