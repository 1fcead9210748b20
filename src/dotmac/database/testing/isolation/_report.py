"""All attacks on your models at once: what came of each, or an assertion that none succeeded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dotmac.database.testing.isolation._attack import registered
from dotmac.database.testing.isolation._trial import Outcome, Trial, clear, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from dotmac.database.testing.isolation._attack import Attack
    from dotmac.database.testing.isolation._subject import Values
    from dotmac.database.testing.isolation._trial import Administrator


def isolation_report(
    sessions: Callable[[], Session],
    models: Iterable[type[Any]],
    administrator: Administrator | Mapping[str, Administrator],
    *,
    values: Values | None = None,
) -> list[Outcome]:
    """Try every attack on every model, with rows of two tenants that are made for it and removed again.

    Args:
        sessions: Makes a session as your application does; called with the attacker's context in force.
        models: Mapped classes; those whose rows belong to nobody are passed over.
        administrator: An engine that sees every row: under row-level security, an administrator's.
        values: For models whose values cannot be made up: a function from the tenant to values by attribute.
    """
    trial = prepare(sessions, models, administrator, values=values)
    try:
        return [outcome for attack in registered() for outcome in outcomes(trial, attack)]
    finally:
        clear(trial)


async def isolation_report_async(
    sessions: Callable[[], AsyncSession],
    models: Iterable[type[Any]],
    administrator: Administrator | Mapping[str, Administrator],
    *,
    values: Values | None = None,
) -> list[Outcome]:
    """Same as `isolation_report`, with sessions of asyncio."""
    async with sessions() as carrier:
        return await carrier.run_sync(
            lambda _: isolation_report(sessions, models, administrator, values=values)  # type: ignore[arg-type] # seen through
        )


def assert_isolated(outcomes: Iterable[Outcome]) -> None:
    """Fail if an attack reached another tenant's rows, and name each that did.

    Raises:
        AssertionError: One did.
    """
    __tracebackhide__ = True
    leaks = [str(outcome) for outcome in outcomes if not outcome.held]
    if leaks:
        raise AssertionError(f"{len(leaks)} attacks reached another tenant's rows:\n  " + "\n  ".join(leaks))


def outcomes(trial: Trial, attack: Attack) -> list[Outcome]:
    """What comes of one attack on each model of ``trial``."""
    return [trial.attempt(attack, subject) for subject in trial.subjects]
