"""Carries out an operation's steps on a session: the only I/O of the repositories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from dotmac.database.query import Copy, Delete, Execute, Flush, translated
from dotmac.database.repository import _copy_in

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from dotmac.database.models import ModelShape
    from dotmac.database.query import Step, Steps

R = TypeVar("R")


def drive(session: Session, steps: Steps[R], shape: ModelShape) -> R:
    """Run ``steps`` to their result; driver errors about rows become this library's."""
    try:
        answer: Any = None
        while True:
            answer = _perform(session, step := steps.send(answer))
            if shape.joins_eagerly and isinstance(step, Execute):
                answer = answer.unique()
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    except SQLAlchemyError as error:
        if (better := translated(error, shape)) is not None:
            raise better from error
        raise


def _perform(session: Session, step: Step) -> Any:
    match step:
        case Execute():
            run = getattr(session, "exec", session.execute)  # SQLModel's sessions deprecate execute()
            return run(step.statement, params=step.parameters, execution_options=step.options)
        case Flush():
            return session.flush()
        case Delete():
            return session.delete(step.entity)
        case Copy():
            return _copy_in.copy_rows(session, step)


async def drive_async(session: AsyncSession, steps: Steps[R], shape: ModelShape) -> R:
    """Same as `drive`, awaiting."""
    try:
        answer: Any = None
        while True:
            answer = await _perform_async(session, step := steps.send(answer))
            if shape.joins_eagerly and isinstance(step, Execute):
                answer = answer.unique()
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    except SQLAlchemyError as error:
        if (better := translated(error, shape)) is not None:
            raise better from error
        raise


async def _perform_async(session: AsyncSession, step: Step) -> Any:
    match step:
        case Execute():
            run = getattr(session, "exec", session.execute)  # SQLModel's sessions deprecate execute()
            return await run(step.statement, params=step.parameters, execution_options=step.options)
        case Flush():
            return await session.flush()
        case Delete():
            return await session.delete(step.entity)
        case Copy():
            return await _copy_in.copy_rows_async(session, step)
