"""A process that changes a cached row and is killed between COMMIT and telling Redis.

``python entity_worker.py DATABASE_URL PREFIX HOW``, with ``REDIS_URL``; ``how`` is "announced" or, to show what that is good
for, "unannounced".
"""

from __future__ import annotations

import os
import signal
import sys

from sqlalchemy import String, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from dotmac.database import create_engine, unscoped
from dotmac.database.caching import CachePolicy, EntityCache
from dotmac.database.caching import _entity_writes as entity_writes


class Base(DeclarativeBase):
    """Of these rows alone."""


class Ship(Base):
    """No tenant's."""

    __tablename__ = "entity_ships"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


def ships(prefix):
    return EntityCache(Ship, ttl=600, policy=CachePolicy(timeout_seconds=10), prefix=prefix)


def main():
    url, prefix, how, end = sys.argv[1:]
    ships(prefix)
    if how == "unannounced":
        entity_writes.Writes.before_commit = lambda *_arguments: None
    if end == "killed":
        event.listen(Session, "after_commit", lambda _session: os.kill(os.getpid(), signal.SIGKILL))
    engine = create_engine(url)
    with unscoped("a worker"), Session(engine) as session:
        session.get(Ship, 1).name = "flushed"
        session.commit()
        session.execute(text("UPDATE entity_ships SET name = 'all'"))
        session.commit()
    engine.dispose()


if __name__ == "__main__":
    main()
