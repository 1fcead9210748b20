"""The plugin's fixtures on real servers, in this very run."""

from __future__ import annotations

import pytest
import redis
from sqlalchemy import text


async def test_session_sees_what_it_commits(dotmac_session):
    await dotmac_session.execute(text("CREATE TABLE kept_nowhere (id int)"))
    await dotmac_session.commit()
    assert (await dotmac_session.execute(text("SELECT count(*) FROM kept_nowhere"))).scalar() == 0


async def test_commit_of_the_test_before_is_rolled_back(dotmac_session):
    found = await dotmac_session.execute(text("SELECT to_regclass('kept_nowhere')"))
    assert found.scalar() is None


def test_sync_session_works_and_counts(dotmac_sync_session, count_statements):
    with count_statements(dotmac_sync_session, exactly=1) as log:
        dotmac_sync_session.execute(text("SELECT 1"))
        with dotmac_sync_session.begin_nested():
            pass
    assert log == ["SELECT 1"]


async def test_too_many_statements_are_listed_without_parameters(dotmac_engine, count_statements):
    expected = r"(?s)at most 1 statements, 2 were sent:\n  1. SELECT 1\n"
    async with dotmac_engine.connect() as connection:
        with pytest.raises(AssertionError, match=expected) as caught, count_statements(connection, at_most=1):  # noqa: PT012 - the block is what is counted
            await connection.execute(text("SELECT 1"))
            await connection.execute(text("SELECT cast(:secret as text)"), {"secret": "hush"})
    assert "hush" not in str(caught.value)


async def test_app_role_is_restricted_and_owns_its_schema(dotmac_session):
    row = (
        await dotmac_session.execute(
            text("SELECT rolsuper, rolbypassrls, rolcreatedb FROM pg_roles WHERE rolname = current_user")
        )
    ).one()
    assert tuple(row) == (False, False, False)
    owns = await dotmac_session.execute(text("SELECT has_schema_privilege('public', 'CREATE')"))
    assert owns.scalar() is True


def test_redis_url_answers(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping() is True
