"""``dotmac-db roles``: the owner, the application and whoever else logs in, set up by one command."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dotmac.database.cli._main import json_option, print_json
from dotmac.database.cli._server import on_server, url_option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from dotmac.database.tenancy import RoleFacts, RolePlan, RoleStatement

_VARIABLES = {
    "owner": "DOTMAC_OWNER_PASSWORD",
    "application": "DOTMAC_APPLICATION_PASSWORD",
    "read_only": "DOTMAC_READ_ONLY_PASSWORD",
    "maintenance": "DOTMAC_MAINTENANCE_PASSWORD",
}


@click.group("roles")
def command() -> None:
    """Set up the roles of a database."""


@command.command("bootstrap")
@url_option
@click.option("--owner", default="app_owner", show_default=True, help="Owns and migrates the tables.")
@click.option("--application", default="app", show_default=True, help="What the application logs in as.")
@click.option("--read-only", default="app_read", show_default=True, help="Reads only; '' for none.")
@click.option("--maintenance", default="", help="Sees every tenant (BYPASSRLS); none by default.")
@click.option(
    "--schema", "schemas", multiple=True, default=["public"], show_default=True, help="Where they work."
)
@click.option(
    "--schema-role",
    "schema_roles",
    multiple=True,
    metavar="SCHEMA[=ROLE]",
    help="A tenant's schema that only a role of its own reaches; the role is called as the schema by default.",
)
@click.option(
    "--password-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON of role and password; created (0600) and filled with random ones for roles that it lacks.",
)
@click.option("--prompt", is_flag=True, help="Ask for each password that neither file nor environment gives.")
@click.option("--dry-run", is_flag=True, help="Print the statements and run none.")
@json_option
def bootstrap(
    *,
    url: str | None,
    owner: str,
    application: str,
    read_only: str,
    maintenance: str,
    schemas: tuple[str, ...],
    schema_roles: tuple[str, ...],
    password_file: Path | None,
    prompt: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Create or mend the owner, the application's role, a reading one, and more where asked.

    Run it as an administrator; again at any time: what is right is left as it is. Passwords come from DOTMAC_OWNER_PASSWORD,
    DOTMAC_APPLICATION_PASSWORD, DOTMAC_READ_ONLY_PASSWORD and DOTMAC_MAINTENANCE_PASSWORD, from a file, or from a prompt,
    and are never printed; only SCRAM verifiers reach the server. A role without one keeps what it has.
    """
    from dotmac.database.tenancy import RolePlan, role_facts, role_statements  # noqa: PLC0415 - slow

    plan = RolePlan(
        owner=owner,
        application=application,
        read_only=read_only or None,
        maintenance=maintenance or None,
        schemas=schemas,
        schema_roles=dict(_pair(entry) for entry in schema_roles),
    )
    passwords = _given(plan, prompt=prompt and not dry_run)

    def work(connection: Connection) -> tuple[RoleFacts, list[RoleStatement]]:
        facts = role_facts(connection, plan)
        if password_file is not None:
            passwords.update(_from_file(password_file, plan, passwords, create=not dry_run))
        statements = role_statements(plan, facts, {name: _verifier(word) for name, word in passwords.items()})
        if not dry_run:
            _carry_out(connection, statements)
        return facts, statements

    facts, statements = on_server(url, work)
    created = [name for name in plan.names if name not in facts.roles]
    silent = [name for name in created if name in plan.logins and name not in passwords]
    _report(
        {
            "database": facts.database,
            "dry_run": dry_run,
            "created": created,
            "without_password": silent,
            "statements": [statement.shown for statement in statements],
        },
        as_json=as_json,
    )


def _pair(entry: str) -> tuple[str, str]:
    schema, _, role = entry.partition("=")
    return schema, role or schema


def _given(plan: RolePlan, *, prompt: bool) -> dict[str, str]:
    found = {}
    for attribute, variable in _VARIABLES.items():
        name = getattr(plan, attribute)
        if name is None:
            continue
        password = os.environ.get(variable)
        if password is None and prompt:
            password = click.prompt(
                f"Password of {name}", hide_input=True, confirmation_prompt=True, err=True
            )
        if password:
            found[name] = password
    return found


def _from_file(path: Path, plan: RolePlan, given: Mapping[str, str], *, create: bool) -> dict[str, str]:
    """Passwords that ``path`` holds; those it lacks are made up and written there first."""
    from dotmac.database.embedded._credentials import new_password  # noqa: PLC0415 - slow

    known = _read(path)
    missing = [name for name in plan.logins if name not in known and name not in given]
    if missing and create:
        known |= {name: new_password() for name in missing}
        # Never readable by others, not even for a moment; and whole, should the machine fail.
        fresh = path.with_name(path.name + ".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(file.fileno(), 0o600)
            json.dump(known, file, indent=2)
        fresh.replace(path)
    return {name: known[name] for name in plan.logins if name in known and name not in given}


def _read(path: Path) -> dict[str, str]:
    try:
        known: Any = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        known = None
    if not isinstance(known, dict) or not all(isinstance(value, str) for value in known.values()):
        raise click.UsageError(f"{path} is no JSON object of role and password.")
    return known


def _verifier(password: str) -> str:
    from dotmac.database.embedded._credentials import scram_verifier  # noqa: PLC0415 - slow

    if not password.isascii():
        # The server would normalise it first (SASLprep), and clients do.
        raise click.UsageError("A password is made of ASCII characters here.")
    return scram_verifier(password)


def _carry_out(connection: Connection, statements: list[RoleStatement]) -> None:
    from dotmac.database.tenancy._policies import literal_sql  # noqa: PLC0415 - slow

    for statement in statements:
        connection.execute(literal_sql(statement.sql))
    connection.commit()


def _report(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    for statement in report["statements"]:
        click.echo(f"{statement};")
    done = "Nothing was run." if report["dry_run"] else f"{len(report['statements'])} statements were run."
    click.echo(f"-- {done}", err=True)
    for name in report["without_password"]:
        click.echo(
            f"-- {name} has no password yet: give one by environment, --password-file or --prompt.", err=True
        )
