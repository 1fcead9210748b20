"""What runs after a transaction ended: only once the server's answer is known, and never able to undo it."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Hook = Callable[[], Any]

_logger = logging.getLogger("dotmac.database.transactions")


class Hooks:
    """Two lists of callables, for COMMIT and for rollback; a savepoint that is undone takes its own with it."""

    __slots__ = ("after_commit", "after_rollback")

    def __init__(self) -> None:
        self.after_commit: list[Hook] = []
        self.after_rollback: list[Hook] = []

    def mark(self) -> tuple[int, int]:
        """Where the lists end now."""
        return len(self.after_commit), len(self.after_rollback)

    def undo(self, mark: tuple[int, int]) -> list[Hook]:
        """Forget what was added since ``mark``; returns the rollback hooks among it, which are due now."""
        del self.after_commit[mark[0] :]
        due = self.after_rollback[mark[1] :]
        del self.after_rollback[mark[1] :]
        return due


def run_hooks(hooks: list[Hook]) -> None:
    """Run ``hooks`` in order; one that fails is logged and the others run.

    It is not raised: an exception after COMMIT would look like a failed transaction and have it done again.
    """
    for hook in hooks:
        try:
            hook()
        except Exception as error:  # noqa: BLE001 - logged
            _log_failure(hook, error)


async def run_hooks_async(hooks: list[Hook]) -> None:
    """Same as `run_hooks`; what a hook returns is awaited if it can be."""
    for hook in hooks:
        try:
            result = hook()
            if inspect.isawaitable(result):
                await result
        except Exception as error:  # noqa: BLE001 - logged
            _log_failure(hook, error)


def _log_failure(hook: Hook, error: Exception) -> None:
    _logger.error(
        "The hook %s failed. The transaction had ended before: nothing is undone.",
        getattr(hook, "__qualname__", type(hook).__name__),
        exc_info=error,
    )
