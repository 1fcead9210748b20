"""What is stored under a key: when it ends, which generation and schema it is of, whose signature it bears, then the value.

::

    version (16 digits) | magic, layout, format, schema, fresh until, kept until, tags' length | signature? | tags | body

The version is written by a script in Redis, which alone knows it. The signature is an HMAC-SHA256 of the key and all
that follows the version, so that nobody without the key can forge an entry or move one to another key.
"""

from __future__ import annotations

import hmac
import struct
from hashlib import blake2b
from typing import Final, NamedTuple

from dotmac.database.caching._codec import DamagedValueError
from dotmac.database.errors import ValidationError

VERSION_DIGITS: Final = 16
_LAYOUT = 1
_MAGIC = b"DC"
_HEAD = struct.Struct(">2sBB8sQQ")
_MOST_TAG_BYTES = 0xFFFF
_HEADER = struct.Struct(">2sBB8sQQH")  # magic, layout, format, schema, fresh until, kept until, bytes of tags
_SIGNATURE_BYTES = 32
_SIGNED = 0x80
HEAD_BYTES: Final = VERSION_DIGITS + _HEAD.size
"""Enough of a stored entry to tell it from a later one: its version, schema and times."""
_BODY_AT = VERSION_DIGITS + _HEADER.size


class Entry(NamedTuple):
    """One stored value, taken apart but not decoded.

    Attributes:
        version: Generation in which it was written; digits, to be compared as text.
        form: Format of the body.
        fresh_until: Logical expiry, in milliseconds since 1970.
        kept_until: Physical expiry, the same way.
        tags: What it can be invalidated by, beside its key.
        body: The encoded value.
    """

    version: bytes
    form: int
    fresh_until: int
    kept_until: int
    tags: tuple[str, ...]
    body: bytes


class Envelope:
    """Wraps and unwraps the entries of one cache.

    Args:
        schema: Version of what is stored; entries of any other one are not read.
        shape: Fingerprint of the models.
        signing_key: Signs entries, and refuses those that are not signed with it.

    Attributes:
        fingerprint: The same for envelopes that read what the other writes.
    """

    def __init__(self, schema: str, shape: bytes = b"", signing_key: bytes | None = None) -> None:
        self._schema = blake2b(schema.encode() + b"\0" + shape, digest_size=8).digest()
        self._signing_key = signing_key
        self._marks = 0 if signing_key is None else _SIGNED
        key = b"" if signing_key is None else hmac.digest(signing_key, b"fingerprint", "sha256")
        self.fingerprint = blake2b(self._schema + key, digest_size=8).hexdigest()

    def wrap(
        self,
        key: str,
        form: int,
        body: bytes,
        *,
        fresh_until: int,
        kept_until: int,
        tags: tuple[str, ...] = (),
    ) -> bytes:
        """What to store after the version.

        Raises:
            ValidationError: The tags take more room than an entry has for them, or one holds NUL.
        """
        named = "\0".join(tags).encode() if tags else b""
        if len(named) > _MOST_TAG_BYTES or named.count(0) > max(len(tags) - 1, 0):
            raise ValidationError(
                f"The {len(tags)} tags of one value take {len(named)} bytes; at most {_MOST_TAG_BYTES} can be kept with it, "
                f"and none may hold NUL. Use fewer or shorter tags."
            )
        header = _HEADER.pack(
            _MAGIC, _LAYOUT, form | self._marks, self._schema, fresh_until, kept_until, len(named)
        )
        if self._signing_key is None:
            return header + named + body
        return header + self._signature(key, header, named, body) + named + body

    def unwrap(self, key: str, stored: bytes) -> Entry | None:
        """The entry under ``key``; None for one of another schema.

        Raises:
            DamagedValueError: It is not an entry, is cut off, or is not signed as it should be.
        """
        try:
            magic, layout, form, schema, fresh_until, kept_until, named = _HEADER.unpack_from(
                stored, VERSION_DIGITS
            )
        except struct.error:
            raise DamagedValueError("too short") from None
        if magic != _MAGIC:
            raise DamagedValueError("foreign")
        if layout != _LAYOUT or schema != self._schema:
            return None
        at = _BODY_AT
        if form & _SIGNED != self._marks:
            raise DamagedValueError("not signed as this cache signs")
        if self._signing_key is not None:
            at += _SIGNATURE_BYTES
            header, signature = stored[VERSION_DIGITS:_BODY_AT], stored[_BODY_AT:at]
            wanted = self._signature(key, header, stored[at : at + named], stored[at + named :])
            if not hmac.compare_digest(signature, wanted):
                raise DamagedValueError("wrong signature")
        tags: tuple[str, ...] = ()
        if named:
            try:
                tags = tuple(stored[at : at + named].decode().split("\0"))
            except UnicodeDecodeError:
                raise DamagedValueError("tags") from None
        return Entry(
            stored[:VERSION_DIGITS], form & ~_SIGNED, fresh_until, kept_until, tags, stored[at + named :]
        )

    def head(self, entry: Entry | None) -> bytes:
        """The first `HEAD_BYTES` of the entry as it is stored; nothing for None."""
        if entry is None:
            return b""
        return entry.version + _HEAD.pack(
            _MAGIC, _LAYOUT, entry.form | self._marks, self._schema, entry.fresh_until, entry.kept_until
        )

    def _signature(self, key: str, header: bytes, tags: bytes, body: bytes) -> bytes:
        text = key.encode()
        signed = b"".join((len(text).to_bytes(4, "big"), text, header, tags, body))
        return hmac.digest(self._signing_key or b"", signed, "sha256")
