"""Transactions that tell the truth: what was committed, what was not, what nobody knows, and what to try again."""

from __future__ import annotations

from dotmac.database.transactions._breaker import CircuitBreaker, CircuitBreakers, CircuitState
from dotmac.database.transactions._budget import RetryBudget
from dotmac.database.transactions._classification import ErrorKind, Phase, Verdict, classify
from dotmac.database.transactions._decorators import database_error_handler, with_retry
from dotmac.database.transactions._manager import TransactionManager
from dotmac.database.transactions._outcome import (
    ServerTransaction,
    TransactionOutcome,
    transaction_outcome,
    transaction_outcome_async,
)
from dotmac.database.transactions._policy import RetryPolicy, RetryStrategy
from dotmac.database.transactions._transaction import AsyncDatabaseTransaction, DatabaseTransaction

__all__ = [
    "AsyncDatabaseTransaction",
    "CircuitBreaker",
    "CircuitBreakers",
    "CircuitState",
    "DatabaseTransaction",
    "ErrorKind",
    "Phase",
    "RetryBudget",
    "RetryPolicy",
    "RetryStrategy",
    "ServerTransaction",
    "TransactionManager",
    "TransactionOutcome",
    "Verdict",
    "classify",
    "database_error_handler",
    "transaction_outcome",
    "transaction_outcome_async",
    "with_retry",
]
