"""What a check says: a status, a sentence and facts, in which no address and no password survives."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

HIDDEN = "…"
_URL = re.compile(r"[A-Za-z][\w+.-]*://\S*")
_PAIR = re.compile(
    r"\b(password|passwd|pwd|passfile|sslpassword|user|username|host|hostaddr|hostname|server|dsn)"
    r"(\"|')?(\s*[=:]\s*)('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s,;&}\)]+)",
    re.IGNORECASE,
)


class HealthStatus(StrEnum):
    """How well something works; formats as ``healthy``, ``degraded``, ``unhealthy`` or ``unknown``."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"

    @property
    def is_serving(self) -> bool:
        """True where work can be sent: healthy, or degraded."""
        return self in _SERVING


_SERVING = frozenset({HealthStatus.HEALTHY, HealthStatus.DEGRADED})
_FROM_BEST_TO_WORST = (
    HealthStatus.HEALTHY,
    HealthStatus.DEGRADED,
    HealthStatus.UNKNOWN,
    HealthStatus.UNHEALTHY,
)


def worst(statuses: Iterable[HealthStatus]) -> HealthStatus:
    """The worst of ``statuses``: unhealthy, then unknown, degraded, healthy. Of none: unknown."""
    return max(statuses, key=_FROM_BEST_TO_WORST.index, default=HealthStatus.UNKNOWN)


@dataclass(frozen=True, slots=True)
class HealthCheckResult:
    """The outcome of one check, or of several together.

    Texts in ``message`` and ``details`` lose whatever looks like a URL, a password, a user or a host.

    Attributes:
        status: The verdict; of several checks together, the worst one.
        message: One sentence for people.
        duration_ms: Milliseconds the check took.
        name: ``database`` for all checks together, else the check's own name.
        details: Facts, ready for JSON.
        checked_at: When it ended, in UTC.
        checks: The single results, where this is of several together.

    Example:
        >>> HealthCheckResult(HealthStatus.UNHEALTHY, "cannot reach postgresql://me:secret@db/shop").message
        'cannot reach …'
    """

    status: HealthStatus
    message: str = ""
    duration_ms: float = 0.0
    name: str = "database"
    details: Mapping[str, Any] = field(default_factory=dict)
    checked_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    checks: Sequence[HealthCheckResult] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", HealthStatus(self.status))
        object.__setattr__(self, "message", scrubbed(str(self.message)))
        object.__setattr__(self, "details", each_text(dict(self.details), scrubbed))
        object.__setattr__(self, "checks", tuple(self.checks))

    @property
    def is_healthy(self) -> bool:
        """True when the status is healthy."""
        return self.status is HealthStatus.HEALTHY

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, ready for JSON."""
        return {
            "name": self.name,
            "status": self.status.value,
            "message": self.message,
            "duration_ms": self.duration_ms,
            "details": dict(self.details),
            "checked_at": self.checked_at.isoformat(),
            "checks": [check.to_dict() for check in self.checks],
        }


def together(results: Sequence[HealthCheckResult], duration_ms: float) -> HealthCheckResult:
    """One result of several: the worst status, and what those said that have it."""
    status = worst(result.status for result in results)
    # One cause is said once, though several checks suffer from it.
    reasons = dict.fromkeys(result.message for result in results if result.status is status)
    is_healthy = status is HealthStatus.HEALTHY
    return HealthCheckResult(
        status,
        "All checks passed." if is_healthy else " ".join(reasons),
        duration_ms,
        details={result.name: result.status.value for result in results},
        checks=results,
    )


def scrubbed(text: str) -> str:
    """``text`` without URLs and without the values of connection parameters such as ``password=…``."""
    return _PAIR.sub(rf"\1\2\3{HIDDEN}", _URL.sub(HIDDEN, text))


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    """``value`` with every text in it, keys included, changed; what JSON does not know becomes text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(str(key)): _entry(key, inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [each_text(inner, change) for inner in value]
    return change(str(value))


def _entry(key: Any, value: Any, change: Callable[[str], str]) -> Any:
    """A value whose key alone tells that it is secret is hidden, whatever it looks like."""
    is_secret = isinstance(value, str) and _PAIR.fullmatch(f"{key}=x") is not None
    return HIDDEN if is_secret else each_text(value, change)
