"""Attacks by the context: none at all, another one's, one lost in a thread (23-28, 32, 33, 35)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, update

from dotmac.database.context import RequestContext, current_context, unscoped, use_context
from dotmac.database.testing.isolation._attack import Leak, attack, loaded_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dotmac.database.testing.isolation._attack import Stage


@attack(23)
def select_without_a_tenant(stage: Stage) -> Iterator[Any]:
    with stage.open(None) as session:
        yield session.scalars(select(stage.model)).all()


@attack(23)
def core_select_without_a_tenant(stage: Stage) -> Iterator[Any]:
    with stage.open(None) as session:
        yield session.execute(select(stage.table)).all()


@attack(23)
def count_without_a_tenant(stage: Stage) -> Iterator[Any]:
    with stage.open(None) as session:
        yield from stage.counted(session.scalar(select(func.count()).select_from(stage.table)))


@attack(23)
def get_without_a_tenant(stage: Stage) -> Iterator[Any]:
    with stage.open(None) as session:
        yield session.get(stage.model, stage.subject.key_of(stage.subject.theirs))


@attack(23)
def update_without_a_tenant(stage: Stage) -> None:
    with stage.open(None) as session:
        session.execute(update(stage.table).values({stage.subject.secret: "taken"}))
        session.commit()


@attack(23)
def delete_without_a_tenant(stage: Stage) -> None:
    with stage.open(None) as session:
        session.execute(delete(stage.table))
        session.commit()


@attack(23)
def insert_without_a_tenant(stage: Stage) -> None:
    subject = stage.subject
    with stage.open(None) as session:
        session.execute(insert(stage.model), [subject.attributes(subject.fresh(subject.other))])
        session.commit()


def _in_thread(work: Callable[[], Any]) -> Any:
    """Run ``work`` in a thread, which begins with an empty context, as in an executor's."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:  # noqa: BLE001 - raised below
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


@attack(24)
def thread_without_the_context(stage: Stage) -> Iterator[Any]:
    """The session was made for its tenant; that it is used where no context is bound changes nothing."""
    context = _in_thread(current_context)
    with use_context(context):
        yield stage.session.scalars(select(stage.model)).all()


@attack(25)
def job_after_a_job(stage: Stage) -> Iterator[Any]:
    with stage.open(stage.subject.other) as session:
        session.scalars(select(stage.model)).all()
        session.commit()
    with stage.open(stage.subject.tenant) as session:
        yield session.scalars(select(stage.model)).all()


@attack(25)
def job_without_a_tenant_after_a_job(stage: Stage) -> Iterator[Any]:
    with stage.open(stage.subject.other) as session:
        session.scalars(select(stage.model)).all()
        session.commit()
    with stage.open(None) as session:
        yield session.execute(select(stage.table)).all()


@attack(26)
def unscoped_elsewhere(stage: Stage) -> Iterator[Any]:
    """Work across tenants in one thread opens nothing in another."""
    entered, done = threading.Event(), threading.Event()

    def work() -> None:
        with unscoped("an attack: is this a process-wide flag?"):
            entered.set()
            done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait()
    try:
        with stage.open(stage.subject.tenant) as session:
            yield session.scalars(select(stage.model)).all()
    finally:
        done.set()
        thread.join()


@attack(26)
def unscoped_inside_a_tenants_session(stage: Stage) -> Iterator[Any]:
    """A session that was made for a tenant stays its own."""
    stage.session.scalars(select(stage.model)).all()
    with unscoped("an attack: does a bound session open up?"):
        yield stage.session.scalars(select(stage.model).execution_options(populate_existing=True)).all()


@attack(27)
def generator_that_outlives_its_context(stage: Stage) -> Iterator[Any]:
    found = iter(stage.session.scalars(select(stage.model)))
    with use_context(RequestContext(tenant_id=stage.subject.other)):
        yield from (loaded_values(entity) for entity in found)
        yield stage.session.scalars(select(stage.model)).all()


@attack(28)
def context_after_an_error(stage: Stage) -> Iterator[Any]:
    try:
        with (
            use_context(RequestContext(tenant_id=stage.subject.other)),
            unscoped("an attack: what stays behind?"),
        ):
            raise LookupError  # noqa: TRY301 - what an error leaves behind is the question
    except LookupError:
        pass
    if current_context().tenant_id != stage.subject.tenant:
        yield Leak("another context stayed in force after an error")
    yield stage.session.scalars(select(stage.model)).all()


@attack(32)
def after_a_rollback(stage: Stage) -> Iterator[Any]:
    stage.session.scalars(select(stage.model)).all()
    stage.session.rollback()
    yield stage.session.scalars(select(stage.model)).all()
    yield stage.session.execute(select(stage.table)).all()


@attack(33)
def after_a_commit(stage: Stage) -> Iterator[Any]:
    stage.session.scalars(select(stage.model)).all()
    stage.session.commit()
    yield stage.session.scalars(select(stage.model)).all()
    yield stage.session.execute(select(stage.table)).all()


@attack(33)
def after_a_savepoint(stage: Stage) -> Iterator[Any]:
    with stage.session.begin_nested():
        stage.session.scalars(select(stage.model)).all()
    stage.session.begin_nested().rollback()
    yield stage.session.execute(select(stage.table)).all()


@attack(35)
def rows_in_portions(stage: Stage) -> Iterator[Any]:
    query = select(stage.model).execution_options(yield_per=1)
    stage.session.scalars(query).all()  # a plain session is bound by its first use
    with use_context(RequestContext(tenant_id=stage.subject.other)):
        yield from (loaded_values(entity) for entity in stage.session.scalars(query))


@attack(35)
def rows_in_portions_while_another_works(stage: Stage) -> Iterator[Any]:
    found = iter(stage.session.execute(select(stage.table).execution_options(stream_results=True)))
    yield next(found, None)
    with stage.open(stage.subject.other) as session:
        session.scalars(select(stage.model)).all()
    yield list(found)
