"""Try attacks on models, and say which were stopped: what is seen, what is written, and what an error means."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, Table
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from dotmac.database.context import RequestContext, unscoped, use_context
from dotmac.database.errors import DatabaseError
from dotmac.database.tenancy import tenancy_of
from dotmac.database.testing.isolation._attack import Attack, NotApplicableError, Stage
from dotmac.database.testing.isolation._evidence import (
    Snapshot,
    fingerprint,
    marks,
    photograph,
    places,
    restore,
    seen,
    written,
)
from dotmac.database.testing.isolation._subject import Subject, seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.orm import Session

    from dotmac.database.testing.isolation._subject import Values

    Administrator = Engine | AsyncEngine

ATTACKER = "isolation-attacker"
OTHER = "isolation-other"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attack on one model.

    Attributes:
        attack: Which.
        model: Name of the model.
        leaks: What the attacker saw or wrote of another tenant's; empty if the attack was stopped.
        error: Name of the error it met, if it met one.
        not_applicable: Why it means nothing here, if it does not.
    """

    attack: Attack
    model: str
    leaks: tuple[str, ...] = ()
    error: str | None = None
    not_applicable: str | None = None

    @property
    def held(self) -> bool:
        """True if no foreign row was seen or written."""
        return not self.leaks

    def __str__(self) -> str:
        if self.not_applicable is not None:
            return f"{self.attack} on {self.model}: not applicable, {self.not_applicable}"
        how = f" ({self.error})" if self.error else ""
        return f"{self.attack} on {self.model}: {'; '.join(self.leaks) if self.leaks else 'held'}{how}"


@dataclass(slots=True)
class Trial:
    """Models with rows of two tenants, on which attacks are tried.

    Attributes:
        sessions: Makes a session, sync or async, for the tenant of the current context.
        administrators: Engines that see every row, by tenant; the same one where the tenants share their tables.
        subjects: The models.
    """

    sessions: Callable[[], Any]
    administrators: Mapping[str, Engine]
    subjects: list[Subject]
    tables: list[Table] = field(default_factory=list)
    _before: Snapshot | None = None
    _print: list[Any] | None = None
    _marks: dict[str, frozenset[Any]] = field(default_factory=dict)

    def attempt(self, attack: Attack, subject: Subject) -> Outcome:
        """Try ``attack`` on ``subject``, and undo what it did. With async sessions: from within ``AsyncSession.run_sync``.

        Raises:
            Exception: The attack itself failed, by an error that no database raises.
        """
        before = self._baseline()
        try:
            if attack.plant is not None:
                with self.connections() as connections:
                    attack.plant(connections[subject.tenant], subject)
                    planted = photograph(connections, self.tables)
                foreign = marks(subject, planted)
            else:
                planted, foreign = before, self._marks_of(subject, before)
            leaks, error = self._tried(attack, subject, foreign)
        except IntegrityError:  # in planting: while attacking it is caught
            self._tidy(before)
            return Outcome(
                attack, str(subject), not_applicable="its keys, or separate tables, allow no such rows"
            )
        except NotApplicableError as reason:
            self._tidy(before)
            return Outcome(attack, str(subject), not_applicable=str(reason))
        leaks.update(written(subject, planted, self._tidy(before)))
        name = None if error is None else type(error).__name__
        return Outcome(attack, str(subject), tuple(sorted(leaks)), error=name)

    def _tried(
        self, attack: Attack, subject: Subject, foreign: frozenset[Any]
    ) -> tuple[set[str], Exception | None]:
        leaks: set[str] = set()
        try:
            with self.open(subject.tenant) as session:
                for item in attack.run(Stage(subject, session, self.open)) or ():
                    leaks.update(seen(item, foreign))  # at once: a commit would expire it
                session.commit()
        except (DatabaseError, SQLAlchemyError) as error:
            return leaks, error
        return leaks, None

    @contextmanager
    def open(self, tenant: str | None) -> Iterator[Session]:
        """A session for ``tenant``, or for none, whose context is in force inside the block."""
        with use_context(RequestContext(tenant_id=tenant)):
            made = self.sessions()
            session: Session = getattr(made, "sync_session", made)
            try:
                yield session
            finally:
                session.close()

    @contextmanager
    def connections(self) -> Iterator[dict[str, Connection]]:
        """The administrators' connections, by tenant; committed at the end."""
        with ExitStack() as stack, unscoped("rows for attacks on isolation"):
            opened: dict[Engine, Connection] = {}
            for engine in self.administrators.values():
                if engine not in opened:
                    opened[engine] = stack.enter_context(engine.begin())
            yield {tenant: opened[engine] for tenant, engine in self.administrators.items()}

    def _marks_of(self, subject: Subject, before: Snapshot) -> frozenset[Any]:
        name = str(subject)
        if name not in self._marks:
            self._marks[name] = marks(subject, before)
        return self._marks[name]

    def _baseline(self) -> Snapshot:
        if self._before is None:
            with self.connections() as connections:
                self._before = photograph(connections, self.tables)
                self._print = fingerprint(connections, self.tables)
        return self._before

    def _tidy(self, before: Snapshot) -> Snapshot:
        with self.connections() as connections:
            if fingerprint(connections, self.tables) == self._print:
                return before
            after = photograph(connections, self.tables)
            restore(connections, before, after)
        with self.connections() as connections:
            self._print = fingerprint(connections, self.tables)
        return after


def prepare(
    sessions: Callable[[], Any],
    models: Iterable[type[Any]],
    administrator: Administrator | Mapping[str, Administrator],
    *,
    tenants: tuple[str, str] = (ATTACKER, OTHER),
    values: Values | None = None,
) -> Trial:
    """Make rows of two tenants for ``models``. With an async administrator: from within ``AsyncSession.run_sync``.

    Args:
        sessions: Makes a session, sync or async, as your application does: it is called with the tenant's context in
            force.
        models: Mapped classes; those whose rows belong to nobody are passed over.
        administrator: An engine that sees every row, or one for each tenant where their tables are apart.
        tenants: The attacker, and whose rows it is after. They must have no rows yet.
        values: For models whose values cannot be made up: a function from the tenant to values by attribute.
    """
    known = list(models)
    administrators = {
        tenant: _plain(administrator[tenant] if isinstance(administrator, Mapping) else administrator)
        for tenant in tenants
    }
    trial = Trial(sessions, administrators, [], _tables_around(known))
    with trial.connections() as connections:
        trial.subjects = seed(connections, known, tenants, values)
    return trial


def clear(trial: Trial) -> None:
    """Remove the rows that `prepare` made."""
    with trial.connections() as connections:
        mine = {subject.tenant for subject in trial.subjects} | {subject.other for subject in trial.subjects}
        for connection in places(connections).values():
            for table in reversed(trial.tables):
                column = tenancy_of(table).column
                if column is not None and column.type.python_type is str:
                    connection.execute(table.delete().where(column.in_(mine)))


def _plain(engine: Administrator) -> Engine:
    return engine if isinstance(engine, Engine) else engine.sync_engine


def _tables_around(models: Iterable[type[Any]]) -> list[Table]:
    """The models' tables, what they refer to, and what refers to them; owners first."""
    found: set[Table] = set()
    metadata = None
    for model in models:
        mapper = sa_inspect(model)
        found.update(table for table in mapper.tables if isinstance(table, Table))
        for relation in mapper.relationships:
            found.update(table for table in relation.mapper.tables if isinstance(table, Table))
            if isinstance(relation.secondary, Table):
                found.add(relation.secondary)
        metadata = next(iter(found)).metadata
    if metadata is None:
        return []
    grown = True
    while grown:
        more = {key.column.table for table in found for key in table.foreign_keys} - found
        found |= more
        grown = bool(more)
    return [table for table in metadata.sorted_tables if table in found and tenancy_of(table).is_divided]
