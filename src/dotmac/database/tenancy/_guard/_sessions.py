"""Where sessions come under the guard: when they begin on a connection, and when they flush."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, event
from sqlalchemy.orm import Session

from dotmac.database.errors import MissingTenantError, TenantError, TenantMismatchError
from dotmac.database.models import describe
from dotmac.database.models._audit import CONTEXT_OPTION
from dotmac.database.tenancy._binding import PLACEMENT_KEY, SESSION_KEY, bound_context, context_in
from dotmac.database.tenancy._guard._dialect import guarded, watched
from dotmac.database.tenancy._guard._work import WORK_ATTRIBUTE, Work
from dotmac.database.tenancy._values import convert_tenant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import SessionTransaction, UOWTransaction

    from dotmac.database.context import RequestContext
    from dotmac.database.models import ModelShape
    from dotmac.database.tenancy._placement import Placement

_BORROWED = "dotmac_borrowed"
_WORK = "dotmac_work"
_is_on = True


@contextmanager
def switched_off() -> Iterator[None]:
    """No guard, in the whole process: only to show in a test that an attack works without it."""
    global _is_on  # noqa: PLW0603 - a switch for tests that cannot be one of a session, which is what they attack
    _is_on = False
    try:
        yield
    finally:
        _is_on = True


@event.listens_for(Session, "after_begin")
def _guard_connection(session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
    _put_under_guard(session, connection).tell(connection)


def _put_under_guard(session: Session, connection: Connection) -> Work:
    info = session.info
    context = context_in(info)
    work = info[_WORK] = Work(info)  # of this transaction: nothing is told or verified yet
    if _is_borrowed(session, connection):
        before = connection.get_execution_options().get(CONTEXT_OPTION)
        if before is not None and before.info is not info and before.is_open:
            _forbid_two_tenants(before.context, context)
        borrowed = info.setdefault(_BORROWED, [])
        if connection not in borrowed:
            borrowed.append(connection)
    connection.execution_options(**{CONTEXT_OPTION: work})
    connection.__dict__[WORK_ATTRIBUTE] = work
    plain = connection.engine.dialect
    if not _is_on:
        connection.dialect = plain
    else:
        connection.dialect = watched(plain) if context.is_unscoped else guarded(plain)
    return work


def _forbid_two_tenants(one: RequestContext, other: RequestContext) -> None:
    if (one.tenant_id, one.is_unscoped) != (other.tenant_id, other.is_unscoped):
        raise TenantError(
            "Another session, of another tenant, is at work on the connection that this session was given. End its "
            "transaction first, or give each a connection of its own."
        )


def _is_borrowed(session: Session, connection: Connection) -> bool:
    """True for a connection that the session was given, and that lives on without it."""
    if session.bind is connection:
        return True
    others: dict[Any, Any] = session.__dict__.get("_Session__binds") or {}
    return connection in others.values()


@event.listens_for(Session, "after_transaction_end")
def _release_borrowed(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None and (borrowed := session.info.pop(_BORROWED, None)):
        session.info[_WORK].is_open = False
        for connection in borrowed:
            connection.dialect = connection.engine.dialect


def switch(session: Session, context: RequestContext, placement: Placement | None = None) -> None:
    """Let ``session`` forget every entity and serve ``context`` from its next statement on, in the same transaction.

    Anything not flushed is forgotten as well.
    """
    session.expunge_all()
    session.info[SESSION_KEY] = context
    session.info.pop(PLACEMENT_KEY, None)
    if placement is not None:
        session.info[PLACEMENT_KEY] = placement
    transaction = session.get_transaction()
    if transaction is None:
        return
    told = session.info.get(_WORK)
    for connection in {key for key in transaction._connections if isinstance(key, Connection)}:  # noqa: SLF001 - there is no public way to see them
        work = _put_under_guard(session, connection)
        if told is not None:
            work.take_over(told)


@event.listens_for(Session, "before_flush")
def _judge_objects(session: Session, _flush: UOWTransaction, _objects: object) -> None:
    context = bound_context(session)
    if context.is_unscoped or not _is_on:
        return
    for entity in session.new:
        _judge_object(entity, context, is_new=True)
    for entity in session.dirty:
        _judge_object(entity, context, is_new=False)
    for entity in session.deleted:
        _judge_object(entity, context, is_new=False)


@event.listens_for(Session, "before_attach")
def _judge_attached(session: Session, entity: object) -> None:
    context = bound_context(session)
    if context.tenant_id is not None and _is_on:
        _judge_object(entity, context, is_new=None)


def _judge_object(entity: Any, context: RequestContext, *, is_new: bool | None) -> None:
    """``is_new`` is None while an entity only comes into the session: nothing is filled in yet."""
    shape = describe(type(entity))
    if shape.tenant is None:
        return
    name = shape.tenant.key
    given = entity.__dict__.get(name)
    if context.tenant_id is None:
        raise MissingTenantError(shape.name)
    if given is not None:
        if str(given) != str(_tenant_value(shape, context.tenant_id)):
            raise TenantMismatchError(shape.name)
    elif is_new:
        setattr(entity, name, _tenant_value(shape, context.tenant_id))


def _tenant_value(shape: ModelShape, tenant_id: str) -> Any:
    return convert_tenant(shape.types["tenant_id"], tenant_id, shape.name)
