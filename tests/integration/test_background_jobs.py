"""Jobs through a real queue, with the guide's own middleware: each works for the tenant it was sent for, or not at all."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO, CurrentMessage, MiddlewareError, Retries
from sqlalchemy.orm import Mapped, mapped_column

from dotmac.database import (
    Base,
    Database,
    RequestContext,
    TenantAwareMixin,
    context_headers,
    create_repository,
    current_context,
    unscoped,
    use_context,
)
from dotmac.database.context import CONTEXT_HEADER

GUIDE = Path(__file__).parents[2] / "docs" / "background-work.md"
KEY = "a key of the tests, not a secret"


class QueuedNote(Base, TenantAwareMixin):
    __tablename__ = "queued_notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


def tenant() -> str | None:
    return current_context().tenant_id


@pytest.fixture(scope="module")
def guide():
    """What the page's first two blocks define: the middleware, as printed."""
    names: dict = {"__name__": "guide"}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)[:2]:
        exec(compile(block, GUIDE.name, "exec", dont_inherit=True), names)  # noqa: S102 - the project's own page
    return names


@pytest.fixture
def broker(redis_url, guide):
    broker = RedisBroker(
        url=redis_url,
        namespace=f"jobs-{uuid.uuid4().hex}",
        middleware=[AsyncIO(), CurrentMessage(), Retries(max_retries=1, min_backoff=1, max_backoff=2)],
    )
    broker.add_middleware(guide["TenantJobs"](key=KEY))
    dramatiq.set_broker(broker)
    yield broker
    broker.flush_all()
    broker.close()


@pytest.fixture
def work(broker):
    """Run the jobs of the queue in one thread, to the last one."""
    workers = []

    def run() -> None:
        worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=50)
        workers.append(worker)
        worker.start()
        broker.join("default", timeout=30_000)
        worker.join()

    yield run
    for worker in workers:
        worker.stop()


def _send_as(context: RequestContext, actor, *arguments):
    with use_context(context):
        return actor.send(*arguments)


def test_one_thread_serves_each_job_for_its_own_tenant(broker, work):
    seen = []

    @dramatiq.actor
    def note(name: str | None) -> None:
        seen.append((name, tenant(), current_context().user_id))

    @dramatiq.actor
    async def note_later(name: str | None) -> None:
        seen.append((name, tenant(), current_context().user_id))

    for actor in (note, note_later):
        for name in ("acme", None, "globex"):
            _send_as(RequestContext(tenant_id=name, user_id="ann"), actor, name)
    work()
    assert sorted(seen, key=str) == sorted(2 * [(n, n, "ann") for n in ("acme", None, "globex")], key=str)


def test_a_failed_job_leaves_no_tenant_and_is_tried_again_for_its_own(broker, work):
    seen = []

    @dramatiq.actor
    def fail_once() -> None:
        seen.append(tenant())
        if seen.count("acme") == 1:
            raise LookupError

    @dramatiq.actor
    def note() -> None:
        seen.append(tenant())

    _send_as(RequestContext(tenant_id="acme"), fail_once)
    _send_as(RequestContext(), note)
    work()
    assert sorted(seen, key=str) == [None, "acme", "acme"]


def test_a_job_that_is_sent_by_a_job_is_its_tenants(broker, work):
    seen = []

    @dramatiq.actor
    def inner() -> None:
        seen.append(tenant())

    @dramatiq.actor
    def outer() -> None:
        inner.send()

    _send_as(RequestContext(tenant_id="acme"), outer)
    work()
    assert seen == ["acme"]


@pytest.mark.parametrize(
    "options",
    [
        {CONTEXT_HEADER: ""},
        {CONTEXT_HEADER: "1.e30.e30"},
        context_headers(RequestContext(tenant_id="globex"), key="a key of somebody else's", purpose="note"),
        context_headers(RequestContext(tenant_id="globex"), key=KEY, purpose="another_actor"),
    ],
    ids=["empty", "made up", "foreign key", "other job"],
)
def test_a_job_without_a_trusted_context_is_not_run(broker, work, options):
    seen = []

    @dramatiq.actor
    def note(name: str) -> None:
        seen.append((name, tenant()))

    _send_as(RequestContext(tenant_id="acme"), note, "before")
    note.send_with_options(args=("forged",), **options)
    _send_as(RequestContext(tenant_id="acme"), note, "after")
    work()
    assert seen == [("before", "acme"), ("after", "acme")]


def test_unscoped_work_is_not_sent(broker):
    @dramatiq.actor
    def note() -> None:
        pytest.fail("the job was run")

    with unscoped("a test of jobs"), pytest.raises(MiddlewareError, match="does not travel"):
        note.send()


def test_rows_that_jobs_write_are_their_tenants(broker, work, dotmac_database):
    with Database(dotmac_database.url("psycopg")) as database:
        Base.metadata.create_all(database.engine, tables=[QueuedNote.__table__])

        @dramatiq.actor
        def write(title: str) -> None:
            with database.create_session() as session:
                create_repository(session, QueuedNote).create({"title": title})

        for name in ("acme", "globex", "acme"):
            _send_as(RequestContext(tenant_id=name), write, f"of {name}")
        work()
        titles = {}
        for name in ("acme", "globex"):
            with use_context(RequestContext(tenant_id=name)), database.create_session() as session:
                titles[name] = [note.title for note in create_repository(session, QueuedNote).list()]
        Base.metadata.drop_all(database.engine, tables=[QueuedNote.__table__])
    assert titles == {"acme": ["of acme", "of acme"], "globex": ["of globex"]}
