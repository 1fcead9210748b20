"""What an operation asks its shell to do. Operations are generators of these; shells carry them out, sync or async."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Executable, Table

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Execute:
    """Run a statement; the answer is its Result."""

    statement: Executable
    parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flush:
    """Send pending changes of the session."""


@dataclass(frozen=True, slots=True)
class Delete:
    """Mark an entity for deletion with the next flush; may load relationships to cascade to."""

    entity: Any


@dataclass(frozen=True, slots=True)
class Copy:
    """Send rows by PostgreSQL's COPY; the answer is True, or False where the server does not allow it."""

    table: Table
    columns: tuple[str, ...]
    records: Sequence[tuple[Any, ...]]


Step: TypeAlias = Execute | Flush | Delete | Copy
Steps: TypeAlias = Generator[Step, Any, R]
