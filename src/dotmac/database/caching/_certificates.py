"""Certificates for Redis over TLS: read when a client is made, so that a wrong one is an error there, and not for each connection."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

from redis.asyncio.connection import RedisSSLContext, SSLConnection

from dotmac.database.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from ssl import SSLContext

    from dotmac.database.caching._pools import SharingPool

_logger = logging.getLogger("dotmac.database.caching")
_READ_AGAIN_SECONDS = 60.0
_OPTIONS = (
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_ca_data",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_min_version",
    "ssl_ciphers",
    "ssl_include_verify_flags",
    "ssl_exclude_verify_flags",
)


def check_tls_options(url: str, *, is_tls: bool) -> None:
    """Refuse options about TLS that would not do what they say.

    Raises:
        ConfigurationError: The URL has one that is unknown, or any although it does not ask for TLS.
    """
    for name, _ in parse_qsl(url.partition("?")[2]):
        if not name.startswith("ssl"):
            continue
        if name not in _OPTIONS:
            raise ConfigurationError(
                f"REDIS_URL has the unknown option {name}. About TLS it takes {', '.join(_OPTIONS)}."
            )
        if not is_tls:
            raise ConfigurationError(f"REDIS_URL has the option {name}, but no TLS: begin it with rediss.")


class Certificates(RedisSSLContext):
    """What connections of one URL trust and show.

    Reading it takes tens of milliseconds in which the event loop stands still, and redis-py does so for each connection. Here
    it is shared, and read again after a minute: files may be replaced while the process runs.
    """

    def __init__(self, of: RedisSSLContext) -> None:
        for name in RedisSSLContext.__slots__:
            setattr(self, name, getattr(of, name))
        self._read_at = 0.0

    def get(self) -> SSLContext:
        """The context for a connection.

        Raises:
            OSError: Files cannot be read or do not fit together, and never did.
        """
        known: SSLContext | None = self.context
        if known is not None and time.monotonic() < self._read_at + _READ_AGAIN_SECONDS:
            return known
        self.context = None
        try:
            context: SSLContext = super().get()
        except OSError as error:  # an SSLError is one
            if known is None:
                raise
            # Half replaced, perhaps.
            _logger.warning("Redis's certificates cannot be read again: %s.", error)
            self.context = context = known
        self._read_at = time.monotonic()
        return context


Pool = TypeVar("Pool", bound="SharingPool")


def sharing_certificates(make: Callable[[], Pool]) -> Callable[[], Pool]:
    """The same maker of pools, for pools that share their certificates, which are read now.

    Raises:
        OSError: They cannot be read or do not fit together.
        RedisError: An option has a value that it cannot have.
        TypeError: There is no such option.
    """
    connection: Any = make().make_connection()
    if not isinstance(connection, SSLConnection):
        return make
    certificates = Certificates(connection.ssl_context)
    certificates.get()

    def make_sharing() -> Pool:
        pool = make()
        pool.certificates = certificates
        return pool

    return make_sharing
