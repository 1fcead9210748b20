"""Attacks on the isolation of tenants, for this library's models and for yours."""

from dotmac.database.testing.isolation import (
    _connection,  # noqa: F401 - each registers its attacks
    _context,  # noqa: F401
    _core,  # noqa: F401
    _entities,  # noqa: F401
    _identity,  # noqa: F401
    _raw,  # noqa: F401
    _relations,  # noqa: F401
    _writes,  # noqa: F401
)
from dotmac.database.testing.isolation._attack import (
    Attack,
    Leak,
    NotApplicableError,
    Stage,
    attack,
    registered,
)
from dotmac.database.testing.isolation._report import (
    assert_isolated,
    isolation_report,
    isolation_report_async,
    outcomes,
)
from dotmac.database.testing.isolation._subject import Subject
from dotmac.database.testing.isolation._trial import ATTACKER, OTHER, Outcome, Trial, clear, prepare

ATTACKS = tuple(registered())
"""Every attack that can be tried on any model, in the order of their numbers."""

__all__ = [
    "ATTACKER",
    "ATTACKS",
    "OTHER",
    "Attack",
    "Leak",
    "NotApplicableError",
    "Outcome",
    "Stage",
    "Subject",
    "Trial",
    "assert_isolated",
    "attack",
    "clear",
    "isolation_report",
    "isolation_report_async",
    "outcomes",
    "prepare",
]
