"""The only way out of tenancy: it wants a reason, and is logged and counted."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

from dotmac.database.context._current import current_context, use_context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from dotmac.database.context._request import RequestContext

_logger = logging.getLogger("dotmac.database.tenancy")

_MAX_REASONS = 1000
_OTHER_REASONS = "(other reasons)"

_lock = Lock()
_uses: Counter[str] = Counter()


def unscoped(reason: str) -> AbstractContextManager[RequestContext]:
    """Let the block see every tenant's rows. The only way out of tenancy: logged as a warning, and counted.

    Say the same reason for the same kind of work: `unscoped_uses` counts by it.

    Raises:
        ValueError: ``reason`` is blank.
    """
    if not reason.strip():
        raise ValueError("unscoped() wants a reason: say why this work may see every tenant.")
    return _unscoped(reason)


@contextmanager
def _unscoped(reason: str) -> Iterator[RequestContext]:
    with _lock:
        _uses[reason if reason in _uses or len(_uses) < _MAX_REASONS else _OTHER_REASONS] += 1
    # Logged as the line that opened the block: past this function and contextlib's __enter__.
    _logger.warning("Unscoped database work: %s", reason, extra={"unscoped_reason": reason}, stacklevel=3)
    context = replace(current_context(), tenant_id=None)
    object.__setattr__(context, "unscoped_reason", reason)  # the one place that may
    with use_context(context):
        yield context


def unscoped_uses() -> dict[str, int]:
    """How often this process entered `unscoped`, by reason; for metrics. The first 1000 reasons are told apart."""
    with _lock:
        return dict(_uses)
