"""The roles of a database as statements: who owns, who works, who reads, and who may look across tenants.

Row-level security binds whoever is neither superuser nor exempt, and who owns nothing; so the application gets a role
of its own. Statements follow from a plan and from what is there already: running them twice changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from dotmac.database.errors import ConfigurationError
from dotmac.database.tenancy._session_context import quoted_identifier, quoted_literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

_LONGEST_NAME_BYTES: Final = 63
_INHERIT_BY_GRANT: Final = 160000  # before PostgreSQL 16 inheritance was an attribute of the member alone
_DATA: Final = "SELECT, INSERT, UPDATE, DELETE"

FACTS_SQL: Final = """
SELECT current_database(), current_setting('server_version_num')::integer,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
       (SELECT CAST(jsonb_object_agg(rolname, jsonb_build_object(
            'superuser', rolsuper, 'bypassrls', rolbypassrls, 'createrole', rolcreaterole, 'createdb', rolcreatedb,
            'replication', rolreplication, 'login', rolcanlogin, 'inherit', rolinherit,
            'owns', EXISTS (SELECT FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid
                AND d.deptype = 'o' AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))),
            'member_of', (SELECT coalesce(jsonb_agg(g.rolname), '[]') FROM pg_auth_members m
                JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid))) AS text)
        FROM pg_roles r WHERE rolname = current_user OR rolname = ANY (CAST(:names AS text[]))),
       (SELECT CAST(coalesce(jsonb_agg(nspname), '[]') AS text) FROM pg_namespace
        WHERE nspname = ANY (CAST(:schemas AS text[])))
"""


@dataclass(frozen=True, slots=True)
class RolePlan:
    """Which roles there are to be.

    Attributes:
        owner: Owns the tables and migrates them.
        application: What the application logs in as; bound by row-level security, owns nothing.
        read_only: Reads, for people and reports; bound by row-level security too. None for none.
        maintenance: Sees every tenant (BYPASSRLS): for work inside `dotmac.database.unscoped`. None for none.
        schemas: The schemas that all of them work in.
        schema_roles: Tenants' schemas, each with the one role that reaches it. The application can switch to that role
            for a transaction (``SET LOCAL ROLE``) and reaches no such schema without it.
    """

    owner: str = "app_owner"
    application: str = "app"
    read_only: str | None = "app_read"
    maintenance: str | None = None
    schemas: tuple[str, ...] = ("public",)
    schema_roles: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = self.names
        for name in (*names, *self.schemas, *self.schema_roles):
            if not name or "\0" in name or len(name.encode()) > _LONGEST_NAME_BYTES:
                raise ConfigurationError(
                    f"A role or schema has a name of 1 to {_LONGEST_NAME_BYTES} bytes without NUL, not {name!r}."
                )
            if name.startswith("pg_") or name == "information_schema":
                raise ConfigurationError(
                    f"{name!r} cannot be used: names that begin with pg_ are the server's own."
                )
        if len(set(names)) < len(names):
            raise ConfigurationError(f"Each role wants a name of its own, not {', '.join(names)}.")

    @property
    def names(self) -> tuple[str, ...]:
        """Every role, those that log in first."""
        return (*self.logins, *self.schema_roles.values())

    @property
    def logins(self) -> tuple[str, ...]:
        """The roles that log in."""
        return tuple(
            name
            for name in (self.owner, self.application, self.read_only, self.maintenance)
            if name is not None
        )


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """What is there already.

    Attributes:
        database: Name of the database.
        version: ``server_version_num``.
        is_superuser: True if whoever runs the statements is one.
        roles: The plan's roles that exist, and the current one: attributes by name.
        schemas: The plan's schemas that exist.
    """

    database: str
    version: int
    is_superuser: bool
    roles: Mapping[str, Mapping[str, Any]]
    schemas: frozenset[str]


@dataclass(frozen=True, slots=True)
class RoleStatement:
    """One statement; ``shown`` is what may be printed and logged: without a password's verifier."""

    sql: str = field(repr=False)
    shown: str


def role_facts(connection: Connection, plan: RolePlan) -> RoleFacts:
    """What `role_statements` wants to know; one query.

    Raises:
        ConfigurationError: Not PostgreSQL.
    """
    if connection.dialect.name != "postgresql":
        raise ConfigurationError(
            f"Roles are set up on PostgreSQL only, and this is {connection.dialect.name}."
        )
    row = connection.execute(
        text(FACTS_SQL.replace("::", r"\:\:")),
        {"names": list(plan.names), "schemas": [*plan.schemas, *plan.schema_roles]},
    ).one()
    return RoleFacts(row[0], row[1], row[2], json.loads(row[3]), frozenset(json.loads(row[4])))


def role_statements(
    plan: RolePlan, facts: RoleFacts, verifiers: Mapping[str, str] | None = None
) -> list[RoleStatement]:
    """The statements that make the database as ``plan`` says, whatever state it is in.

    Args:
        plan: The roles.
        facts: What is there.
        verifiers: A SCRAM-SHA-256 verifier for each role whose password is to be set: no password travels.

    Raises:
        ConfigurationError: A schema does not exist, or a role is one that must not be touched.
    """
    _check(plan, facts)
    secrets = verifiers or {}
    statements = [_role(plan, facts, name, secrets.get(name)) for name in plan.names]
    plain = [
        *_memberships(plan, facts),
        *_database(plan, facts),
        *(sql for schema in plan.schemas for sql in _shared_schema(plan, schema)),
        *(
            sql
            for schema, role in plan.schema_roles.items()
            for sql in _own_schema(plan, facts, schema, role)
        ),
    ]
    return [part for part in statements if part is not None] + [RoleStatement(sql, sql) for sql in plain]


def _check(plan: RolePlan, facts: RoleFacts) -> None:
    missing = sorted({*plan.schemas, *plan.schema_roles} - facts.schemas)
    if missing:
        raise ConfigurationError(
            f"There is no schema {', '.join(missing)}: create it first, or leave it out."
        )
    for name in (plan.application, plan.read_only, *plan.schema_roles.values()):
        if name is not None and facts.roles.get(name, {}).get("superuser") and not facts.is_superuser:
            raise ConfigurationError(
                f"{name} is a superuser, whom nothing binds: run this as a superuser, or name another role."
            )


def _role(plan: RolePlan, facts: RoleFacts, name: str, verifier: str | None) -> RoleStatement | None:
    wanted = {
        "superuser": False,
        "bypassrls": name == plan.maintenance,
        "createrole": False,
        "createdb": False,
        "replication": False,
        "login": name in plan.logins,
        # What a schema's role may do, the application may do only after it has switched to that role.
        "inherit": not (plan.schema_roles and name == plan.application and facts.version < _INHERIT_BY_GRANT),
    }
    known = facts.roles.get(name)
    if known is None:
        words = [(key if value else f"no{key}").upper() for key, value in wanted.items()]
        verb = "CREATE"
    else:
        words = [
            (key if value else f"no{key}").upper() for key, value in wanted.items() if known[key] != value
        ]
        verb = "ALTER"
        if not words and verifier is None:
            return None
    start = " ".join([f"{verb} ROLE {quoted_identifier(name)} WITH", *words])
    if verifier is None:
        return RoleStatement(start, start)
    return RoleStatement(f"{start} PASSWORD {quoted_literal(verifier)}", f"{start} PASSWORD '***'")


def _memberships(plan: RolePlan, facts: RoleFacts) -> list[str]:
    statements = []
    owner = quoted_identifier(plan.owner)
    if not facts.is_superuser:
        # Whoever changes an owner, or the owner's default privileges, must be the owner, too.
        statements.append(f"GRANT {owner} TO CURRENT_USER")
    for name in (plan.application, plan.read_only):
        if name is None:
            continue
        known = facts.roles.get(name, {})
        statements += [
            f"REVOKE {quoted_identifier(group)} FROM {quoted_identifier(name)}"
            for group in (plan.owner, plan.maintenance)
            if group is not None and group in known.get("member_of", ())
        ]
        if known.get("owns"):
            statements.append(f"REASSIGN OWNED BY {quoted_identifier(name)} TO {owner}")
    return statements


def _database(plan: RolePlan, facts: RoleFacts) -> list[str]:
    database = quoted_identifier(facts.database)
    owner = quoted_identifier(plan.owner)
    statements = [
        # A temporary table stands in front of a table of the same name.
        f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {database} TO {_names(plan.logins)}",
        f"GRANT CREATE, TEMPORARY ON DATABASE {database} TO {owner}",
    ]
    if plan.read_only is not None:
        statements.append(
            f"ALTER ROLE {quoted_identifier(plan.read_only)} IN DATABASE {database} SET default_transaction_read_only = on"
        )
    return statements


def _shared_schema(plan: RolePlan, schema: str) -> list[str]:
    place = quoted_identifier(schema)
    owner = quoted_identifier(plan.owner)
    writers = [name for name in (plan.application, plan.maintenance) if name is not None]
    others = [*writers, *([plan.read_only] if plan.read_only is not None else [])]
    return [
        f"REVOKE CREATE ON SCHEMA {place} FROM PUBLIC, {_names(others)}",
        f"GRANT USAGE, CREATE ON SCHEMA {place} TO {owner}",
        f"GRANT USAGE ON SCHEMA {place} TO {_names(others)}",
        *_privileges(plan, place, writers, readers=[plan.read_only] if plan.read_only is not None else []),
    ]


def _own_schema(plan: RolePlan, facts: RoleFacts, schema: str, role: str) -> list[str]:
    place = quoted_identifier(schema)
    application = quoted_identifier(plan.application)
    option = " WITH INHERIT FALSE, SET TRUE" if facts.version >= _INHERIT_BY_GRANT else ""
    return [
        f"REVOKE ALL ON SCHEMA {place} FROM PUBLIC, {application}",
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {place} FROM PUBLIC, {application}",
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {place} FROM PUBLIC, {application}",
        f"GRANT USAGE, CREATE ON SCHEMA {place} TO {quoted_identifier(plan.owner)}",
        f"GRANT USAGE ON SCHEMA {place} TO {quoted_identifier(role)}",
        *_privileges(plan, place, [role], readers=[]),
        f"GRANT {quoted_identifier(role)} TO {application}{option}",
    ]


def _privileges(plan: RolePlan, place: str, writers: Sequence[str], *, readers: Sequence[str]) -> list[str]:
    """Data only: TRUNCATE knows no policies, a trigger runs with others' rights, setval reaches other tenants."""
    everybody = [*writers, *readers]
    future = f"ALTER DEFAULT PRIVILEGES FOR ROLE {quoted_identifier(plan.owner)} IN SCHEMA {place}"
    statements = [
        f"REVOKE TRUNCATE, REFERENCES, TRIGGER ON ALL TABLES IN SCHEMA {place} FROM PUBLIC, {_names(everybody)}",
        f"REVOKE SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA {place} FROM PUBLIC, {_names(everybody)}",
        f"GRANT {_DATA} ON ALL TABLES IN SCHEMA {place} TO {_names(writers)}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {place} TO {_names(writers)}",
        f"{future} GRANT {_DATA} ON TABLES TO {_names(writers)}",
        f"{future} GRANT USAGE ON SEQUENCES TO {_names(writers)}",
    ]
    if readers:
        statements += [
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {place} TO {_names(readers)}",
            f"{future} GRANT SELECT ON TABLES TO {_names(readers)}",
        ]
    return statements


def _names(roles: Sequence[str]) -> str:
    return ", ".join(map(quoted_identifier, roles))
