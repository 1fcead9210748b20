"""Keys for data encrypted at rest: real Fernet keys or passphrases, several at once so that they can rotate."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

from dotmac.database.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.fernet import MultiFernet

_FERNET_KEY_BYTES = 32
# Passphrases are stretched once per process. Cost: RFC 7914 section 2; n=2**14 takes about 50 ms and 16 MiB.
_SCRYPT = {"n": 2**14, "r": 8, "p": 1, "dklen": _FERNET_KEY_BYTES, "maxmem": 64 * 2**20}
_SALT = b"dotmac-database/encryption-key/v1"


def split_keys(value: str) -> tuple[str, ...]:
    """The keys in a comma-separated setting, newest first."""
    return tuple(part.strip() for part in value.split(",") if part.strip())


def multi_fernet(keys: Sequence[str]) -> MultiFernet:
    """A cipher that encrypts with the first key and decrypts with any.

    A key that is 32 bytes of url-safe base64 (what ``Fernet.generate_key()`` gives) is used as it is; any other text is
    stretched with scrypt.

    Raises:
        ConfigurationError: No key is given, or the ``cryptography`` package is missing.
    """
    if not keys:
        raise ConfigurationError(
            "No encryption key is set. Set DB_ENCRYPTION_KEY (several, newest first, separated by commas), or pass keys=."
        )
    return _multi_fernet(tuple(keys))


@lru_cache(maxsize=32)
def _multi_fernet(keys: tuple[str, ...]) -> MultiFernet:
    try:
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigurationError(
            "Encryption needs the 'cryptography' package: pip install 'dotmac-database[encryption]'."
        ) from None
    return MultiFernet([Fernet(_fernet_key(key)) for key in keys])


def _fernet_key(key: str) -> bytes:
    try:
        if len(base64.b64decode(key.encode(), altchars=b"-_", validate=True)) == _FERNET_KEY_BYTES:
            return key.encode()
    except ValueError:
        pass  # not a Fernet key: a passphrase
    stretched = hashlib.scrypt(key.encode(), salt=_SALT, **_SCRYPT)
    return base64.urlsafe_b64encode(stretched)
