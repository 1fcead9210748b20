"""What a lock is inside Redis: two keys of one slot, and three scripts that decide on them atomically.

The lock key holds a token that is new for every acquisition and expires by itself. The fence key remembers the last
fencing token, which is the server's clock in microseconds, or one more than the last where the clock went back. So it
grows from holder to holder, also across a restart that forgot everything, and a name that is used no more leaves
nothing behind after a day. The pattern of token and compare-and-delete: https://redis.io/docs/latest/commands/set/.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import RedisCluster

FENCE_MILLISECONDS = 24 * 60 * 60 * 1000
"""How long a fence key outlives the last acquisition."""


@dataclass(frozen=True, slots=True)
class Keys:
    """One lock's keys; the braces put them into one slot of a cluster.

    Attributes:
        lock: Holds the holder's token.
        fence: Holds the last fencing token.
        freed: The channel that a release is announced on.
    """

    lock: str
    fence: str
    freed: str

    def void(self, token: str) -> str:
        """Says that an acquisition under ``token`` is of no effect, should it still arrive."""
        return f"{self.lock}:void:{token}"

    @classmethod
    @lru_cache(maxsize=1024)
    def of(cls, tenant: str, name: str) -> Keys:
        """The keys of ``name``; no two pairs of tenant and name have a key in common."""
        root = f"dotmac:lock:{{{quote(tenant, safe='')}/{quote(name, safe=':')}}}"
        return cls(root, f"{root}:fence", f"{root}:freed")


class Script:
    """A Lua script, sent by its digest and, once per server, in full. Each of ours may be sent twice."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: Redis | RedisCluster, keys: Sequence[str], *arguments: str | int) -> int:
        """Run it on ``keys`` and return the number it returns."""
        tail = (str(len(keys)), *keys, *map(str, arguments))
        if type(client) is Redis and client.connection is None:
            try:
                return int(await _sent(client, ("EVALSHA", self._digest, *tail)))
            except ResponseError as error:
                if not isinstance(error, NoScriptError):
                    raise
            except (RedisError, OSError):
                # Once more, with the client's own retries.
                pass
        command: Any = client.execute_command
        try:
            return int(await command("EVALSHA", self._digest, *tail))
        except NoScriptError:
            return int(await command("EVAL", self._text, *tail))


async def _sent(client: Redis, words: tuple[str, ...]) -> Any:
    """The answer to a command in ASCII, a fifth sooner than from ``execute_command``: no retries, hooks and callbacks."""
    packed = "".join([f"*{len(words)}\r\n", *[f"${len(word)}\r\n{word}\r\n" for word in words]])
    pool: Any = client.connection_pool
    connection = await pool.get_connection()
    try:
        if connection.health_check_interval:
            await connection.check_health()
        writer = getattr(connection, "_writer", None)
        if writer is None:
            await connection.send_packed_command(packed.encode("ascii"))
        else:
            # Some hundred bytes never fill the buffer, so there is no need for the task that guards `drain`.
            writer.write(packed.encode("ascii"))
        return await connection.read_response()
    finally:
        await pool.release(connection)


ACQUIRE = Script(
    """
local holder, last, void = unpack(redis.call('MGET', KEYS[1], KEYS[2], KEYS[3]))
if holder == ARGV[1] and last then
  -- Sent twice, because the first answer was lost.
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return tonumber(last)
end
if holder then
  return -math.max(redis.call('PTTL', KEYS[1]), 1)
end
if void then return -1 end
local now = redis.call('TIME')
local fence = now[1] * 1000000 + now[2]
last = tonumber(last or 0)
if last >= fence then fence = last + 1 end
-- NX for a key of another type, which MGET passes over.
if not redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'NX') then
  return redis.error_reply('WRONGTYPE The key of a lock holds no token')
end
redis.call('SET', KEYS[2], string.format('%.0f', fence), 'PX', ARGV[3])
return fence
"""
)
"""Token, life of the lock and of the fence in ms. Returns the fencing token, or minus the ms that the holder has left."""

ABANDON = Script(
    """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.pcall('PUBLISH', ARGV[3], '')
  return 1
end
redis.call('SET', KEYS[3], '', 'PX', ARGV[2])
return 0
"""
)
"""Token, ms, channel. Undoes an acquisition whose answer nobody waits for, also if it arrives later than this."""

RENEW = Script(
    """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
)
"""Token, life in ms. Returns 1, or 0 if the lock is not the token's any more."""

RELEASE = Script(
    """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.pcall('PUBLISH', ARGV[3], '')
  return 1
end
-- Gone, but nobody has had it since: expired unnoticed, or released by a message whose answer was lost.
if redis.call('GET', KEYS[2]) == ARGV[2] then return 1 end
return 0
"""
)
"""Token, fencing token, channel. Returns 1, or 0 if somebody else may have had the lock before this release."""
