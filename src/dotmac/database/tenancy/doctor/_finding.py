"""One thing that is wrong with a database: how bad, where, why, and the statements that mend it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any


class Severity(IntEnum):
    """How bad a finding is; greater is worse."""

    INFO = 1
    """Worth knowing; leaks nothing by itself."""
    WARNING = 2
    """Leaks under a further condition, or weakens a wall that still stands."""
    ERROR = 3
    """Another tenant's rows can be read or written now."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong.

    Attributes:
        code: Names the kind of finding, for scripts.
        severity: How bad it is.
        object: What it is about.
        why: What can happen.
        sql: Statements that mend it, in order; none where it is not mended by SQL.
    """

    code: str
    severity: Severity
    object: str
    why: str
    sql: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything, the severity by its name, as for JSON."""
        return asdict(self) | {"severity": self.severity.name.lower(), "sql": list(self.sql)}
