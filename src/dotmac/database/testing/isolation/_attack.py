"""One way in which a tenant has reached another's rows: its number, what it does, and how it is tried."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import inspect as sa_inspect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection, Table
    from sqlalchemy.orm import Session

    from dotmac.database.testing.isolation._subject import Subject


class NotApplicableError(Exception):
    """The attack means nothing on this model or database; the message says why."""


class Leak:
    """What an attack returns when it learned of foreign rows without seeing their values, as by counting them."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __repr__(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class Stage:
    """What an attack works with.

    Attributes:
        subject: The model under attack, with rows of two tenants.
        session: A session bound to the attacker, who owns ``subject.mine``.
        open: Opens another session, bound to the tenant it is given, or to none; a context manager.
    """

    subject: Subject
    session: Session
    open: Callable[[str | None], AbstractContextManager[Session]]

    @property
    def dialect(self) -> str:
        """Name of the database, ``"mariadb"`` being ``"mysql"``."""
        name = self.session.get_bind().dialect.name
        return "mysql" if name == "mariadb" else name

    @property
    def model(self) -> type[Any]:
        """The model under attack."""
        return self.subject.model

    @property
    def table(self) -> Table:
        """The table that holds the model's secret."""
        return self.subject.table

    def only_on(self, *dialects: str) -> None:
        """Leave the attack where the database is another.

        Raises:
            NotApplicableError: It is.
        """
        if self.dialect not in dialects:
            raise NotApplicableError(f"{self.dialect} has no such statement")

    def foreign(self, **changes: Any) -> Any:
        """A foreign row as an object that some other session has let go of: detached, with its key."""
        return self.subject.detached(self.subject.theirs, **changes)

    def own(self, **changes: Any) -> Any:
        """An own row, likewise."""
        return self.subject.detached(self.subject.mine, **changes)

    def counted(self, number: Any) -> list[Leak]:
        """A leak if ``number`` is more than the attacker's own rows."""
        own = self.subject.own_total
        return [Leak(f"counted {number} rows, {own} are own")] if number is not None and number > own else []

    def exists(self, found: Any) -> list[Leak]:
        """A leak if a foreign row was ``found``."""
        return [Leak("learned that a foreign row exists")] if found else []


class Try(Protocol):
    """What an attack does; returns, or yields, all that it got to see."""

    def __call__(self, stage: Stage, /) -> Iterable[Any] | None:
        """Attack."""
        ...


class Plant(Protocol):
    """What the administrator lays out before the attack."""

    def __call__(self, connection: Connection, subject: Subject, /) -> None:
        """Lay it out."""
        ...


@dataclass(frozen=True, slots=True)
class Attack:
    """One way to another tenant's rows.

    Attributes:
        number: Its number in the list of attacks.
        name: What it does, in a few words with hyphens.
        run: Does it.
        plant: What lies ready before it.
    """

    number: int
    name: str
    run: Try = field(repr=False, compare=False)
    plant: Plant | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.number:02}-{self.name}"


_registered: dict[str, Attack] = {}


def attack(number: int, *, plant: Plant | None = None) -> Callable[[Try], Try]:
    """Register a function as attack ``number``, under its own name."""

    def register(run: Try) -> Try:
        made = Attack(number, run.__name__.replace("_", "-"), run, plant)  # type: ignore[attr-defined]
        if str(made) in _registered:
            raise ValueError(f"There are two attacks called {made}.")
        _registered[str(made)] = made
        return run

    return register


def registered() -> Iterator[Attack]:
    """All attacks, in the order of their numbers."""
    return iter(sorted(_registered.values(), key=lambda one: (one.number, one.name)))


def loaded_values(entity: object) -> dict[str, Any]:
    """What an entity holds in memory; nothing is loaded."""
    state = sa_inspect(entity)
    return {key: value for key, value in state.dict.items() if key != "_sa_instance_state"}
