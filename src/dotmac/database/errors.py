"""Every exception this library raises, in one tree.

::

    DatabaseError
    ├── ConfigurationError            settings, URLs or extras that cannot work        (also ValueError)
    ├── ValidationError               data, filters or options that do not fit          (also ValueError)
    │   └── InvalidCursorError        a damaged, foreign or stale page cursor
    ├── EntityNotFoundError           no visible row has that key                        (also LookupError)
    ├── ConstraintViolationError      the server refused a row
    │   └── DuplicateEntityError      ... because of a unique constraint
    ├── TenantError                   whose data it is, is unclear or wrong
    │   ├── MissingTenantError        a tenant model was used without a tenant
    │   ├── TenantMismatchError       data names another tenant than the one bound
    │   ├── UnprovableStatementError  a statement that cannot be shown to stay within the tenant
    │   ├── InvalidContextError       a job's context headers are missing, damaged, stale or not ours
    │   ├── TenantNotFoundError       the directory knows no such tenant                 (also LookupError)
    │   ├── TenantSuspendedError      the tenant is known and may not be served now
    │   ├── TenantExistsError         the directory has a tenant of that id or slug
    │   └── QuotaExceededError        a tenant has used up what it was given
    ├── SchemaError                   a schema or database of a tenant cannot be named, made or dropped
    ├── DatabaseUnavailableError      the server did not answer in time
    ├── ConnectionPoolError           a pool could not hand out a connection
    ├── CommitFailedError             COMMIT was refused; nothing was written
    ├── CommitOutcomeUnknownError     the connection was lost during COMMIT; written or not, nobody knows
    ├── TransactionStateError         a callable broke the rules of the transaction it runs in
    ├── CircuitOpenError              a circuit breaker refused the call; nothing was sent
    ├── MigrationLockedError          another process is migrating this database
    ├── LockError                     a distributed lock was used wrongly, or:
    │   ├── LockUnavailableError      its server did not answer; who holds it, nobody knows
    │   ├── LockLostError             it ended before the block under it did
    │   └── LockNotHeldError          a fencing token was asked of a lock that has none
    ├── QueryError                    a statement that cannot be built or run
    └── EmbeddedServerError           a local PostgreSQL or Valkey could not be run

Messages say what happened, with which values, and what to do next. They never hold row data or passwords.
Wrong arguments to a function (as opposed to wrong data) are plain ``TypeError`` or ``ValueError``.
"""

from __future__ import annotations

from typing import Any


class DatabaseError(Exception):
    """The root: ``except DatabaseError`` catches everything this library raises on purpose."""


class ConfigurationError(DatabaseError, ValueError):
    """Settings, a URL or an installation that cannot work; the message says which and how to mend it."""


class ValidationError(DatabaseError, ValueError):
    """Data, a filter, a sort or an option does not fit the model.

    Attributes:
        model: Name of the model, if one is involved.
        field: Name of the offending field, if it is one field.
    """

    def __init__(self, message: str, *, model: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.model = model
        self.field = field


class InvalidCursorError(ValidationError):
    """A page cursor is damaged, was made for another query, tenant or model, or is wrongly signed."""


class EntityNotFoundError(DatabaseError, LookupError):
    """No row with that key is visible: it never existed, is soft-deleted, or belongs to another tenant.

    Attributes:
        model: Name of the model.
        key: The key that was asked for.
    """

    def __init__(self, model: str, key: Any) -> None:
        super().__init__(
            f"{model} with key {key!s} was not found (or is deleted, or belongs to another tenant)."
        )
        self.model = model
        self.key = key


class ConstraintViolationError(DatabaseError):
    """The server refused a row because of a constraint.

    Attributes:
        model: Name of the model.
        constraint: Name of the constraint, if the server told it.
        kind: ``"unique"``, ``"foreign_key"``, ``"check"``, ``"not_null"``, ``"exclusion"`` or ``"integrity"``.
    """

    def __init__(self, message: str, *, model: str, constraint: str | None, kind: str) -> None:
        super().__init__(message)
        self.model = model
        self.constraint = constraint
        self.kind = kind


class DuplicateEntityError(ConstraintViolationError):
    """A row with these unique values exists already; ``constraint`` names the constraint."""

    def __init__(self, model: str, constraint: str | None, *, hint: str = "") -> None:
        named = f"constraint {constraint!r}" if constraint else "a unique constraint"
        super().__init__(
            f"{model} with these values exists already ({named}). {hint}".rstrip(),
            model=model,
            constraint=constraint,
            kind="unique",
        )


class TenantError(DatabaseError):
    """Whose data is meant is unclear or wrong."""


class MissingTenantError(TenantError):
    """A tenant model was used with no tenant bound."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"{model} belongs to tenants and no tenant is bound. Pass tenant_id=…, work inside "
            f"`use_context(RequestContext(tenant_id=…))`, or, for work across tenants on purpose, inside "
            f"`unscoped('why')`."
        )
        self.model = model


class TenantMismatchError(TenantError):
    """Data names another tenant than the one the work is bound to."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The data for {model} names another tenant than the one this work is bound to. Leave tenant_id out: "
            f"it is filled in; or bind the other tenant first."
        )
        self.model = model


class InvalidContextError(TenantError):
    """The headers that should say for whom a job works cannot be trusted.

    Attributes:
        reason: ``"missing"``, ``"damaged"``, ``"version"``, ``"signature"`` or ``"age"``.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TenantNotFoundError(TenantError, LookupError):
    """The directory knows no such tenant.

    Attributes:
        tenant: The id or slug that was asked for.
    """

    def __init__(self, tenant: str) -> None:
        super().__init__(
            f"There is no tenant {tenant!r} in the directory. `dotmac-db tenant list` shows those there are; "
            f"`dotmac-db tenant create` makes one."
        )
        self.tenant = tenant


class TenantSuspendedError(TenantError):
    """The tenant is known and must not be served now: it is suspended, or not (or no longer) complete.

    Attributes:
        tenant: Its id.
        status: ``"suspended"``, or ``"incomplete"``: it is being made or dropped, or one of these was cut short.
    """

    def __init__(self, tenant: str, status: str = "suspended") -> None:
        remedy = (
            "`resume` it first."
            if status == "suspended"
            else "It is being made or dropped; if that was cut short, `drop` clears away what is left."
        )
        super().__init__(f"The tenant {tenant!r} is {status}. {remedy}")
        self.tenant = tenant
        self.status = status


class TenantExistsError(TenantError):
    """The directory has a tenant of that id, slug or schema already.

    Attributes:
        tenant: The id or slug that is taken.
    """

    def __init__(self, message: str, *, tenant: str) -> None:
        super().__init__(message)
        self.tenant = tenant


class QuotaExceededError(TenantError):
    """A tenant has used up what its quotas give it; other tenants are not concerned.

    Attributes:
        tenant: Its id.
        quota: ``"connections"`` or ``"rows"``.
        limit: How much the quota gives.
        table: The table, if the quota is one of rows.
    """

    def __init__(self, *, tenant: str, quota: str, limit: int, table: str | None = None, hint: str) -> None:
        what = f"{limit} rows of {table}" if table is not None else f"{limit} {quota}"
        super().__init__(f"The tenant {tenant!r} has used up its quota of {what}. {hint}")
        self.tenant = tenant
        self.quota = quota
        self.limit = limit
        self.table = table


class SchemaError(DatabaseError):
    """A schema or database of a tenant cannot be named, made, found or dropped; nothing was changed.

    Attributes:
        schema: Its name, if it has one that may be shown.
    """

    def __init__(self, message: str, *, schema: str | None = None) -> None:
        super().__init__(message)
        self.schema = schema


class UnprovableStatementError(TenantError):
    """A statement was refused: nothing shows that it stays within the rows of the bound tenant.

    Attributes:
        tables: Names of the tenants' tables involved, as far as they are known.
    """

    def __init__(self, reason: str, *, tables: frozenset[str] = frozenset()) -> None:
        super().__init__(
            f"This statement was not sent: {reason}. Write it with the models (select(User), update(User), …), whose "
            f"tenant is added by itself; or enable row-level security on these tables and connect as a role that it "
            f"binds, then the server decides; or, for work across tenants on purpose, use a session made inside "
            f"`unscoped('why')`."
        )
        self.tables = tables


class DatabaseUnavailableError(DatabaseError):
    """The database did not become ready in time.

    Attributes:
        waited_seconds: How long was waited.
        attempts: How many connections were tried.
    """

    def __init__(self, message: str, *, waited_seconds: float, attempts: int) -> None:
        super().__init__(message)
        self.waited_seconds = waited_seconds
        self.attempts = attempts


class ConnectionPoolError(DatabaseError):
    """A pool could not hand out a connection, or was used after it was closed."""


class CommitFailedError(DatabaseError):
    """COMMIT was refused by the server: nothing of the transaction was written."""


class CommitOutcomeUnknownError(DatabaseError):
    """The connection was lost while COMMIT was under way: the transaction was written whole or not at all.

    It is never retried by itself, because a retry could do the work twice.

    Attributes:
        transaction: Identifies the transaction to `transaction_outcome`, if it was tracked; else None.
        transaction_id: Its number at the server, if it was tracked; else None.
    """

    def __init__(self, message: str, *, transaction: Any = None) -> None:
        super().__init__(message)
        self.transaction = transaction
        self.transaction_id: str | None = getattr(transaction, "transaction_id", None)


class TransactionStateError(DatabaseError):
    """A callable or block broke the rules of the transaction it runs in; nothing of it was committed."""


class CircuitOpenError(DatabaseError):
    """A circuit breaker refused the call; nothing was sent.

    Attributes:
        name: The breaker's name.
        retry_after: Seconds until the breaker lets a call through to try.
    """

    def __init__(self, name: str, *, retry_after: float) -> None:
        super().__init__(
            f"The circuit breaker {name!r} is open after repeated connection failures; the next call is let through "
            f"in {retry_after:.1f} s. Nothing was sent."
        )
        self.name = name
        self.retry_after = retry_after


class MigrationLockedError(DatabaseError):
    """Another process was migrating this database for all the time we were willing to wait.

    Attributes:
        waited_seconds: How long was waited.
    """

    def __init__(self, *, waited_seconds: float) -> None:
        super().__init__(
            f"Another process has been migrating this database for {waited_seconds:g} s. Nothing was changed. Let it "
            f"finish and run again (it is then a no-op), or wait longer with migrator_wait=timedelta(…)."
        )
        self.waited_seconds = waited_seconds


class LockError(DatabaseError):
    """A distributed lock was used in a way that cannot work, or could not be had or kept."""


class LockUnavailableError(LockError):
    """The server that grants a lock did not answer: the lock is not held, and nobody knows by whom."""


class LockLostError(LockError):
    """A lock ended before the block under it did: others may have worked at the same time."""


class LockNotHeldError(LockError):
    """A fencing token was asked of a lock that was not acquired, or that gives none."""


class QueryError(DatabaseError):
    """A statement that cannot be built or run on this database."""


class EmbeddedServerError(DatabaseError):
    """A local server could not be started or stopped; the one-line message says why and what to do."""
