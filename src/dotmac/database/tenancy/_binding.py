"""What a session is bound to: one context, and one placement, for its life.

Our own sessions take the context in force when they are made. Any other session takes the first one that names a tenant
(or is unscoped) and is in force when it is used. Another tenant needs another session.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dotmac.database.context import RequestContext, TenantId, current_context, use_context
from dotmac.database.errors import TenantError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dotmac.database.tenancy._placement import Placement

SESSION_KEY = "dotmac_context"
"""Where a session keeps its `RequestContext`, in ``session.info``."""

PLACEMENT_KEY = "dotmac_placement"
"""Where a session keeps its `Placement`, in ``session.info``; none means shared tables."""

_EMPTY = RequestContext()


def context_in(info: dict[Any, Any]) -> RequestContext:
    """The context of the session with this ``info``; binds a session that is not bound to the one in force here."""
    bound = info.get(SESSION_KEY)
    if isinstance(bound, RequestContext):
        return bound
    here = current_context()
    if here.tenant_id is not None or here.is_unscoped:
        info[SESSION_KEY] = here
    return here


def bound_context(session: Any) -> RequestContext:
    """The context ``session`` (sync or async) is bound to; the one in force here if it is bound to none."""
    bound = session.info.get(SESSION_KEY)
    return bound if isinstance(bound, RequestContext) else current_context()


def bind(session: Any, context: RequestContext, placement: Placement | None = None) -> None:
    """Bind ``session`` (sync or async) to ``context``, unless it serves another tenant already.

    Raises:
        TenantError: It does, or it has read rows of all tenants.
    """
    bound = session.info.get(SESSION_KEY) or _EMPTY
    if bound.is_unscoped != context.is_unscoped and (bound.is_unscoped or len(session.identity_map)):
        raise TenantError(
            "This session works across tenants (or has loaded rows before it was to), and a session never changes whose "
            "rows it sees. Open another session, or call clear_rls_context(session) first."
        )
    if bound.tenant_id is not None and bound.tenant_id != context.tenant_id:
        raise TenantError(
            f"This session serves tenant {bound.tenant_id!r}, and a session never changes its tenant. Open another "
            f"session for tenant {context.tenant_id!r}, or call clear_rls_context(session) first."
        )
    session.info[SESSION_KEY] = context
    known: Placement | None = session.info.get(PLACEMENT_KEY)
    if placement is not None:
        if known is not None and bound.tenant_id is not None and known != placement:
            raise TenantError("This session is bound to another schema or database. Open another session.")
        session.info[PLACEMENT_KEY] = placement


def bind_tenant(session: Any, tenant_id: object) -> RequestContext:
    """Bind a session that serves no tenant yet to ``tenant_id``; an unscoped one stays as it is.

    Raises:
        TenantError: It serves another tenant.
        ValueError: ``tenant_id`` is no `TenantId`.
    """
    bound = session.info.get(SESSION_KEY)
    context = bound if isinstance(bound, RequestContext) else current_context()
    if not context.is_unscoped and context.tenant_id is None:
        context = replace(context, tenant_id=TenantId(tenant_id))
    if bound is not context:
        bind(session, context)
    return context


_BLOCKS = "dotmac_blocks"


@contextmanager
def ambient_block(session: Any) -> Iterator[None]:
    """A block in which binding ``session`` binds what is opened inside as well, until the block ends."""
    with ExitStack() as blocks:
        session.info[_BLOCKS] = blocks
        try:
            yield
        finally:
            session.info.pop(_BLOCKS, None)


def bind_ambient(session: Any, context: RequestContext) -> None:
    """Have what is opened in ``session``'s block serve ``context`` too; nothing happens outside such a block."""
    blocks: ExitStack | None = session.info.get(_BLOCKS)
    if blocks is not None:
        blocks.close()
        if context.tenant_id is not None:
            blocks.enter_context(use_context(context))
