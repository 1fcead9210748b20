"""Whose a lock's name is, and how long "how long" is."""

from __future__ import annotations

import math
from datetime import timedelta

from dotmac.database.context import RequestContext, current_context

Seconds = float | timedelta
"""A length of time: seconds, or a timedelta."""


def owner_of(*, shared: bool, context: RequestContext | None = None) -> str:
    """The tenant that a name belongs to here; empty for names that all tenants share.

    Two tenants that choose the same name must not exclude each other, nor learn of each other by trying.
    """
    if shared:
        return ""
    return (current_context() if context is None else context).tenant_id or ""


def checked_name(name: str) -> str:
    """``name``, if a lock can have it.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty.
    """
    if not isinstance(name, str):
        raise TypeError(f"A lock's name is text, not {type(name).__name__}.")
    if not name:
        raise ValueError("A lock's name must not be empty.")
    return name


def in_seconds(value: Seconds, what: str, *, minimum: float, endless: bool = False) -> float:
    """``value`` as a number of seconds.

    Raises:
        TypeError: It is no length of time.
        ValueError: It is below ``minimum``, not a number, or infinite where that makes no sense.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} is a number of seconds or a timedelta, not {type(value).__name__}.")
    if math.isnan(value) or value < minimum or (math.isinf(value) and not endless):
        raise ValueError(
            f"{what} must be at least {minimum:g} s{'' if endless else ' and finite'}, not {value:g}."
        )
    return float(value)
