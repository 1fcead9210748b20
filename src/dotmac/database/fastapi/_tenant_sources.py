"""Where in a request its tenant stands: header, host name, path or token claim, or several that must agree.

What a client wrote itself is held to `validated_tenant`; what the application answers for (a verified claim, a function of
its own) to `TenantId`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

from fastapi.requests import HTTPConnection

from dotmac.database.context import TenantId, validated_tenant
from dotmac.database.fastapi._refusals import refusal

Name: TypeAlias = str | int | UUID
Resolver = Callable[[HTTPConnection], "Name | Awaitable[Name | None] | None"]
"""Finds a tenant or a user in a request: plain (and quick) or async; None where there is none."""

Claims: TypeAlias = Mapping[str, Any]
ClaimsOf = Callable[[HTTPConnection], "Claims | Awaitable[Claims | None] | None"]

# One label of a host name (RFC 1123, section 2.1). "xn--" begins one that shows as other letters (RFC 5890).
_LABEL = re.compile(r"(?!xn--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_FOREIGN, _BAD = 403, 400


async def resolved(connection: HTTPConnection, what: str, resolve: Resolver) -> str | None:
    """The name that ``resolve`` finds, checked.

    Raises:
        RequestRefusedError: It is malformed.
        TypeError: The resolver returned something that is no name.
    """
    found = resolve(connection)
    value = await found if inspect.isawaitable(found) else found
    if value is None:
        return None
    if not _is_name(value):
        raise TypeError(
            f"A resolver of the {what} returned {type(value).__name__}: return text, an integer, a UUID or None."
        )
    try:
        return TenantId(value)
    except ValueError as error:
        raise refusal(connection, _BAD, str(error).replace("tenant", what)) from None


def header_tenant(name: str = "X-Tenant-ID") -> Resolver:
    """A resolver that reads the tenant from a header; a header that is given twice is refused.

    Whoever can reach the application can set a header: use it behind a gateway that does, or next to authentication
    that checks the tenant against the user.
    """
    return HeaderTenant(name)


def subdomain_tenant(*domains: str, reserved: tuple[str, ...] = ("www",)) -> Resolver:
    """A resolver that reads the tenant from the host name: ``acme`` in ``acme.example.com``, given ``"example.com"``.

    The domain itself, a ``reserved`` name and a foreign host name no tenant. A name with a dot in it, over 63 characters
    or in other letters (``xn--``) is refused, and so is a request with two hosts.

    Raises:
        ValueError: No domain is given, or one is no host name.
    """
    names = tuple(domain.lower().strip(".") for domain in domains)
    if not names or not all(all(map(_LABEL.fullmatch, name.split("."))) for name in names):
        raise ValueError(
            'subdomain_tenant() wants the domains that tenants are under, such as "example.com".'
        )
    return _SubdomainTenant(names, frozenset(name.lower() for name in reserved))


def path_tenant(prefix: str = "/t") -> Resolver:
    """A resolver that reads the tenant from the path: ``acme`` in ``/t/acme/notes``. Other paths name none.

    Raises:
        ValueError: ``prefix`` does not begin with a slash.
    """
    if not prefix.startswith("/"):
        raise ValueError('path_tenant() wants the part of the path before the tenant, such as "/t" or "/".')
    return _PathTenant(prefix.rstrip("/") + "/")


def path_parameter_tenant(parameter: str = "tenant") -> Resolver:
    """A resolver that reads the tenant from a path parameter; for the dependency, as middleware runs before routing."""
    return _PathParameterTenant(parameter)


def claim_tenant(claim: str = "tenant_id", claims: ClaimsOf | None = None) -> Resolver:
    """A resolver that reads the tenant from a claim of a token that the application has verified.

    Args:
        claim: Name of the claim.
        claims: Gives the verified claims of a request, or None; plain or async. By default they are in
            ``request.state.claims``, where an authentication middleware outside this one put them.
    """
    return _ClaimTenant(claim, _claims_in_state if claims is None else claims)


def agreed_tenant(*resolvers: Resolver) -> Resolver:
    """A resolver that asks all of several; those that name a tenant must name the same, else the request is refused.

    Raises:
        ValueError: No resolver is given.
    """
    if not resolvers:
        raise ValueError("agreed_tenant() wants the resolvers that have to agree.")
    return _AgreedTenant(resolvers)


@dataclass(frozen=True, slots=True)
class HeaderTenant:
    """See `header_tenant`."""

    name: str

    def __call__(self, connection: HTTPConnection) -> str | None:
        """The tenant in the header."""
        value = _only(connection, self.name)
        return None if value is None else _checked(connection, value)


@dataclass(frozen=True, slots=True)
class _SubdomainTenant:
    domains: tuple[str, ...]
    reserved: frozenset[str]

    def __call__(self, connection: HTTPConnection) -> str | None:
        host = _host(_only(connection, "Host") or "")
        under = [domain for domain in self.domains if host.endswith("." + domain)]
        if not under or host in self.domains:
            return None
        name = host.removesuffix("." + max(under, key=len))
        if name in self.reserved:
            return None
        if _LABEL.fullmatch(name) is None:
            raise refusal(
                connection,
                _BAD,
                "The host names no tenant: it is one part of at most 63 letters, digits and - in front of the domain.",
            )
        return name


@dataclass(frozen=True, slots=True)
class _PathTenant:
    prefix: str

    def __call__(self, connection: HTTPConnection) -> str | None:
        path: str = connection.scope["path"]
        root: str = connection.scope.get("root_path", "").rstrip("/")
        if root and path.startswith(root + "/"):
            path = path[len(root) :]
        if not path.startswith(self.prefix) or path == self.prefix:
            return None
        return _checked(connection, path.removeprefix(self.prefix).partition("/")[0])


@dataclass(frozen=True, slots=True)
class _PathParameterTenant:
    parameter: str

    def __call__(self, connection: HTTPConnection) -> str | None:
        value = connection.path_params.get(self.parameter)
        return None if value is None else _checked(connection, value)


@dataclass(frozen=True, slots=True)
class _ClaimTenant:
    claim: str
    claims: ClaimsOf

    async def __call__(self, connection: HTTPConnection) -> Name | None:
        found = self.claims(connection)
        claims = await found if inspect.isawaitable(found) else found
        value = None if claims is None else claims.get(self.claim)
        if value is None:
            return None
        if not _is_name(value):
            raise refusal(connection, _FOREIGN, f"The token's claim {self.claim} does not name one tenant.")
        name: Name = value
        return name


@dataclass(frozen=True, slots=True)
class _AgreedTenant:
    resolvers: tuple[Resolver, ...]

    async def __call__(self, connection: HTTPConnection) -> str | None:
        asked = [await resolved(connection, "tenant", resolve) for resolve in self.resolvers]
        named = {name for name in asked if name is not None}
        if len(named) > 1:
            raise refusal(connection, _BAD, "The request names different tenants in different places.")
        return next(iter(named), None)


def _is_name(value: object) -> bool:
    return isinstance(value, str | int | UUID) and not isinstance(value, bool)


def _claims_in_state(connection: HTTPConnection) -> Claims | None:
    claims = getattr(connection.state, "claims", None)
    return claims if isinstance(claims, Mapping) else None


def _only(connection: HTTPConnection, header: str) -> str | None:
    values = connection.headers.getlist(header)
    if len(values) > 1:
        raise refusal(connection, _BAD, f"The header {header} is given {len(values)} times.")
    return values[0] if values else None


def _checked(connection: HTTPConnection, value: object) -> str:
    try:
        return validated_tenant(value)
    except ValueError as error:
        raise refusal(connection, _BAD, str(error)) from None


def _host(header: str) -> str:
    """The host without its port and without the dot that makes it absolute."""
    return re.sub(r":\d*$", "", header).lower().removesuffix(".")
