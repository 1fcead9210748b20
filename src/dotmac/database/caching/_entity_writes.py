"""What sessions write, and when it counts: rows and tables, collected by transaction and savepoint.

Every statement is seen at the cursor, whoever sends it; of those that a flush sends, the entities tell which rows they
mean. What a savepoint wrote is forgotten when it is rolled back, and becomes its parent's when it is released.
"""

from __future__ import annotations

import uuid
import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session

from dotmac.database.caching._entity_sql import read_sentence
from dotmac.database.caching._entity_telling import tell
from dotmac.database.query import WRITES_OPTION

if TYPE_CHECKING:
    from sqlalchemy.orm import SessionTransaction, UOWTransaction

    from dotmac.database.caching._entities import EntityCache
    from dotmac.database.caching._entity_telling import Changes

_WRITES = "dotmac_writes"
_LONGEST_KEPT = 20_000
_MOST_ROWS = 1000
_watched: list[EntityCache] = []


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one statement means for the caches.

    Attributes:
        named: Caches of tables that it names and may change.
        reached: Caches of tables that it may change through foreign keys.
        extended: Caches of tables that it adds rows to.
        sets_isolation: True if it may change which snapshot the transaction reads.
    """

    named: tuple[EntityCache, ...] = ()
    reached: tuple[EntityCache, ...] = ()
    extended: tuple[EntityCache, ...] = ()
    sets_isolation: bool = False


def verdict_on(sql: str) -> Verdict:
    """What ``sql`` means for the caches of this process."""
    sentence = read_sentence(sql)
    sets_isolation = sentence.sets_isolation
    if sentence.is_unseen:
        return Verdict(reached=tuple(_watched), sets_isolation=sets_isolation)
    if not sentence.writes:
        return Verdict(sets_isolation=sets_isolation)
    named = tuple(cache for cache in _watched if cache.reach.is_named(sentence))
    if sentence.only_inserts:  # nothing is kept of rows that are not there
        return Verdict(extended=named, sets_isolation=sets_isolation)
    reached = tuple(cache for cache in _watched if cache not in named and cache.reach.is_reached(sentence))
    return Verdict(named, reached, sets_isolation=sets_isolation)


_verdict_kept = lru_cache(maxsize=2048)(verdict_on)


class Level:
    """What one transaction or savepoint wrote.

    Attributes:
        changes: Rows to remove from caches, or None for all.
        touched: Caches of whose tables anything was written, added rows included.
        sent: Caches of whose tables the mapper has sent changes that no flush has explained yet.
        is_committed: True once it was committed or released.
    """

    __slots__ = ("changes", "is_committed", "sent", "touched")

    def __init__(self) -> None:
        self.changes: Changes = {}
        self.touched: set[EntityCache] = set()
        self.sent: set[EntityCache] = set()
        self.is_committed = False

    def change(self, cache: EntityCache, text: str | None) -> None:
        """A row changed, or for None any of the table's may have."""
        self.touched.add(cache)
        rows = self.changes.setdefault(cache, set())
        if text is None or (rows is not None and len(rows) >= _MOST_ROWS):
            self.changes[cache] = None
        elif rows is not None:
            rows.add(text)

    def explain_nothing(self) -> None:
        """What the mapper sent outside a flush, as bulk methods do, may be any row."""
        for cache in self.sent:
            self.change(cache, None)
        self.sent.clear()

    def take(self, other: Level) -> None:
        """What ``other`` wrote is its own from now on."""
        other.explain_nothing()
        self.touched |= other.touched
        for cache, rows in other.changes.items():
            known = self.changes.setdefault(cache, set())
            self.changes[cache] = None if known is None or rows is None else known | rows


class Writes:
    """What one session writes in its current transaction.

    Attributes:
        reads_snapshot: True if a statement may have changed the isolation level.
    """

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)
        self._levels: dict[SessionTransaction, Level] = {}
        self._announced: str | None = None
        self.reads_snapshot = False

    def has_touched(self, cache: EntityCache) -> bool:
        """True if the transaction has written to the table."""
        return any(cache in level.touched for level in self._levels.values())

    def inserted(self, table: str) -> None:
        """Rows were added to the table of that name, past the cursor."""
        level = self._level()
        for cache in _watched:
            if level is not None and cache.reach.name == table.lower():
                level.touched.add(cache)

    def begin_blind(self) -> None:
        """The transaction began before anybody listened: it may have changed anything."""
        level = self._level()
        for cache in _watched:
            if level is not None:
                level.change(cache, None)

    def saw(self, sql: str, flushing: Any) -> None:
        """A statement is sent; ``flushing`` is the mapper's statement cache if the mapper made it."""
        verdict = _verdict_kept(sql) if len(sql) < _LONGEST_KEPT else verdict_on(sql)
        if verdict.sets_isolation:
            self.reads_snapshot = True
        if not (verdict.named or verdict.reached or verdict.extended):
            return
        level = self._level()
        if level is None:
            return
        for cache in verdict.named:
            if flushing is not None and flushing is cache.shape.mapper.base_mapper._compiled_cache:  # noqa: SLF001 - nothing else tells
                level.touched.add(cache)
                level.sent.add(cache)  # until the entities have told which rows
            else:
                level.change(cache, None)
        for cache in verdict.reached:
            level.change(cache, None)
        level.touched.update(verdict.extended)

    def before_flush(self) -> None:
        """What was sent so far is none of this flush."""
        level = self._level()
        if level is not None:
            level.explain_nothing()

    def after_flush(self, flush: UOWTransaction) -> None:
        """The entities of the flush tell which rows its statements meant."""
        level = self._level()
        if level is None:
            return
        left = set(level.sent)
        level.sent.clear()
        again = {state for states, _ in flush.post_update_states.values() for state in states}
        for state, (_is_deleted, is_listed_only) in flush.states.items():
            if is_listed_only and state not in again:
                continue
            for cache in _of_table(state.mapper.local_table.name):
                left.discard(cache)
                level.touched.add(cache)
                if state.key is None:
                    continue  # a new row: nothing is kept of it
                known = state.mapper is cache.shape.mapper
                level.change(cache, cache.text_of_state(state) if known else None)
        for cache in left:
            level.change(cache, None)

    def before_commit(self, session: Session) -> None:
        """Announce what is about to be committed."""
        if session.get_nested_transaction() is not None:
            return
        if not session._is_clean():  # noqa: SLF001 - what COMMIT would flush belongs to it
            session.flush()
        self.before_flush()
        level = self._level()
        if level is not None and any(rows is None or rows for rows in level.changes.values()):
            self._announced = uuid.uuid4().hex
            tell(level.changes, self._announced, is_settled=False)

    def after_commit(self) -> None:
        """The innermost transaction or savepoint was committed or released."""
        level = self._level()
        if level is not None:
            level.is_committed = True

    def after_end(self, transaction: SessionTransaction) -> None:
        """A savepoint ended, or all of it: its connections are given back already."""
        level = self._levels.pop(transaction, None)
        if transaction.nested:
            parent = self._level() if level is not None and level.is_committed else None
            if level is not None and parent is not None:
                parent.take(level)
            return
        announced, self._announced = self._announced, None
        self._levels.clear()
        self.reads_snapshot = False
        # A COMMIT that failed may have happened nonetheless: what was announced is settled in any case.
        if level is not None and (level.is_committed or announced is not None):
            tell(level.changes, announced or "", is_settled=True)

    def _level(self) -> Level | None:
        session = self._session()
        if session is None:
            return None
        transaction = session.get_nested_transaction() or session.get_transaction()
        return None if transaction is None else self._levels.setdefault(transaction, Level())


def _of_table(name: Any) -> list[EntityCache]:
    return [cache for cache in _watched if cache.reach.name == str(name).lower()]


def watch(cache: EntityCache) -> None:
    """Remove rows of ``cache`` when they change, from now on."""
    if not _watched:
        for target, name, listener in _LISTENERS:
            event.listen(target, name, listener)
    _watched.append(cache)
    _verdict_kept.cache_clear()


def writes_of(session: Session) -> Writes:
    """What ``session`` writes; a transaction that is under way and was not watched counts as having written anything."""
    writes: Writes | None = session.info.get(_WRITES)
    if writes is None:
        writes = session.info[_WRITES] = Writes(session)
        transaction = session.get_transaction()
        if transaction is not None:
            for connection in _connections_of(transaction):
                _observe(connection, writes)
            writes.begin_blind()
    return writes


def _connections_of(transaction: SessionTransaction) -> set[Connection]:
    return {key for key in transaction._connections if isinstance(key, Connection)}  # noqa: SLF001 - there is no public way


def _observe(connection: Connection, writes: Writes) -> None:
    connection.execution_options(**{WRITES_OPTION: writes})
    if not event.contains(connection, "before_cursor_execute", _nothing):
        # A connection that was opened before anything listened asks nobody, unless it has a listener of its own.
        event.listen(connection, "before_cursor_execute", _nothing)


def _nothing(*_arguments: Any) -> None:
    """A listener that does nothing."""


def _after_begin(session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
    writes = session.info.get(_WRITES)
    if not isinstance(writes, Writes) or writes._session() is not session:  # noqa: SLF001 - info may be copied
        writes = session.info[_WRITES] = Writes(session)
    connection.execution_options(**{WRITES_OPTION: writes})


def _before_cursor_execute(
    connection: Connection, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: Any
) -> None:
    writes = connection.get_execution_options().get(WRITES_OPTION)
    if writes is not None:
        options = context.execution_options if context is not None else {}
        writes.saw(statement, options.get("compiled_cache"))


def _before_flush(session: Session, _flush: UOWTransaction, _objects: Any) -> None:
    if (writes := session.info.get(_WRITES)) is not None:
        writes.before_flush()


def _after_flush(session: Session, flush: UOWTransaction) -> None:
    if (writes := session.info.get(_WRITES)) is not None:
        writes.after_flush(flush)


def _before_commit(session: Session) -> None:
    if session.get_nested_transaction() is None and not session._is_clean():  # noqa: SLF001 - see Writes.before_commit
        session.flush()  # a transaction of a session that has only pending changes begins here
    if (writes := session.info.get(_WRITES)) is not None:
        writes.before_commit(session)


def _after_commit(session: Session) -> None:
    if (writes := session.info.get(_WRITES)) is not None:
        writes.after_commit()


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    if (transaction.parent is None or transaction.nested) and (
        writes := session.info.get(_WRITES)
    ) is not None:
        writes.after_end(transaction)


_LISTENERS: tuple[tuple[Any, str, Any], ...] = (
    (Engine, "before_cursor_execute", _before_cursor_execute),
    (Session, "after_begin", _after_begin),
    (Session, "before_flush", _before_flush),
    (Session, "after_flush", _after_flush),
    (Session, "before_commit", _before_commit),
    (Session, "after_commit", _after_commit),
    (Session, "after_transaction_end", _after_transaction_end),
)
