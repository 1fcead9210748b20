"""What has to happen at once in Redis: the scripts that read and change generations, leases and values together.

A scope's *stamp* holds three numbers of sixteen digits: the version that new entries bear, the floor below which entries
are invalid, and the floor below which loads that are under way are not stored; then a mark for copies in memory. Numbers
are microseconds of the server's clock or one more than the last, so that a lost stamp never makes old entries valid
again. A *lease* says who loads a key (Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013, section 3.2.1): deleting
the key takes the lease away, and what was loaded under it is refused. Who waits for a lease listens to a channel of its name.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Any, Final

STAMP = """
local function now()
  local t = redis.call('TIME')
  return string.format('%s%06d', t[1], t[2])
end
local created = false
local function stamp()
  local s = redis.call('GET', KEYS[1])
  if s and #s == 49 then return s end
  local v = now()
  s = v .. v .. v .. '0'
  redis.call('SET', KEYS[1], s)
  created = true
  return s
end
local function mark(s)
  -- 2: the stamp was lost or never there, so nobody knows whether there are copies.
  return created and 2 or tonumber(string.sub(s, 49))
end
local function following(v)
  local n = now()
  if n > v then return n end
  return string.format('%.0f', tonumber(v) + 1)
end
"""
_TAGS = """
local function floors(first, version, life)
  -- A tag that Redis does not know may have been invalidated, and what bears it may be there still: so it begins at
  -- the present version, below which nothing is valid, and lives as long as its entries do.
  for i = first, #KEYS do
    if not redis.call('SET', KEYS[i], version, 'NX', 'PX', life) then
      if redis.call('PTTL', KEYS[i]) < tonumber(life) then redis.call('PEXPIRE', KEYS[i], life) end
    end
  end
end
"""


class Script:
    """A Lua script, known to the server by its digest."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = sha1(text.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"Script({self.digest})"

    def call(self, keys: tuple[str, ...], *arguments: Any) -> tuple[Any, ...]:
        """The command that runs it by its digest."""
        return ("EVALSHA", self.digest, len(keys), *keys, *arguments)


WRITE: Final = Script(
    STAMP
    + _TAGS
    + """
-- KEYS: stamp, value, lease, tags…  ARGV: entry, life in milliseconds
local s = stamp()
redis.call('SET', KEYS[2], string.sub(s, 1, 16) .. ARGV[1], 'PX', ARGV[2])
if redis.call('DEL', KEYS[3]) == 1 then redis.call('PUBLISH', KEYS[3], '1') end
floors(4, string.sub(s, 1, 16), ARGV[2])
return mark(s)
"""
)
"""Store a value whatever was there; a load of it that is under way will not. Returns the mark for copies."""

WRITE_MANY: Final = Script(
    STAMP
    + """
-- KEYS: stamp, value, lease, value, lease, …  ARGV: entry, life, entry, life, …
local s = stamp()
local v = string.sub(s, 1, 16)
for i = 2, #KEYS, 2 do
  redis.call('SET', KEYS[i], v .. ARGV[i - 1], 'PX', ARGV[i])
end
for i = 3, #KEYS, 2 do
  if redis.call('DEL', KEYS[i]) == 1 then redis.call('PUBLISH', KEYS[i], '1') end
end
return mark(s)
"""
)

DELETE: Final = Script(
    """
-- KEYS: stamp, value, lease, value, lease, …
local s = redis.call('GET', KEYS[1])
local gone = 0
for i = 2, #KEYS, 2 do
  gone = gone + redis.call('UNLINK', KEYS[i])
  if redis.call('DEL', KEYS[i + 1]) == 1 then redis.call('PUBLISH', KEYS[i + 1], '0') end
end
return {gone, s and tonumber(string.sub(s, 49)) or 2}
"""
)
"""Remove values, and refuse the loads of them that are under way. Returns how many there were, and the mark."""

BEGIN: Final = Script(
    STAMP
    + """
-- KEYS: stamp, value, lease  ARGV: token, life of the lease, head of the entry the caller has seen, 'anew' to look at none
local s = stamp()
if not ARGV[4] then
  local stored = redis.call('GETRANGE', KEYS[2], 0, math.max(#ARGV[3], 1) - 1)
  if #stored > 0 and stored ~= ARGV[3] then
    stored = redis.call('GET', KEYS[2])
    if string.sub(stored, 1, 16) >= string.sub(s, 17, 32) then return {2, s, stored} end
  end
end
if redis.call('SET', KEYS[3], ARGV[1], 'NX', 'PX', ARGV[2]) then return {1, s, created and 2 or 0} end
return {0, redis.call('PTTL', KEYS[3])}
"""
)
"""Take the lease of a key: 1 and the stamp; or 0 and how long another has it; or 2, the stamp and a value that came
since the caller looked."""

FILL: Final = Script(
    STAMP
    + _TAGS
    + """
-- KEYS: stamp, value, lease, tags…  ARGV: token, version at the beginning, entry, life
local s = redis.call('GET', KEYS[1])
local held = redis.call('GET', KEYS[3]) == ARGV[1]
if not held then
  redis.call('PUBLISH', KEYS[3], '0')
  return 0
end
redis.call('DEL', KEYS[3])
local good = s and ARGV[2] >= string.sub(s, 17, 32) and ARGV[2] >= string.sub(s, 33, 48)
if good then
  for i = 4, #KEYS do
    -- Unknown: whatever was invalidated since the beginning may have been this tag.
    local floor = redis.call('GET', KEYS[i]) or string.sub(s, 1, 16)
    if floor > ARGV[2] then good = false end
  end
  -- When refused too: then the next load meets a tag that is known, however often others are invalidated.
  floors(4, string.sub(s, 1, 16), ARGV[4])
end
if good then redis.call('SET', KEYS[2], ARGV[2] .. ARGV[3], 'PX', ARGV[4]) end
redis.call('PUBLISH', KEYS[3], good and '1' or '0')
return good and 1 or 0
"""
)
"""Store what was loaded under a lease, unless something was invalidated since; wake who waits. Returns 1 if stored."""

RELEASE: Final = Script(
    """
-- KEYS: lease  ARGV: token
redis.call('PUBLISH', KEYS[1], '0')
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
)
"""Give a lease back without a value; wake who waits."""

RENEW: Final = Script(
    """
-- KEYS: lease  ARGV: token, life
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
)

INVALIDATE: Final = Script(
    STAMP
    + """
-- KEYS: stamp, tags…  ARGV: 'all', 'tags' or 'loads'
local s = stamp()
local v, floor, fills = following(string.sub(s, 1, 16)), string.sub(s, 17, 32), string.sub(s, 33, 48)
if ARGV[1] == 'all' then floor = v end
if ARGV[1] == 'loads' then fills = v end
for i = 2, #KEYS do redis.call('SET', KEYS[i], v, 'XX', 'KEEPTTL') end
redis.call('SET', KEYS[1], v .. floor .. fills .. string.sub(s, 49))
return mark(s)
"""
)
"""Begin a new generation: everything before it is invalid, or what bears one of the tags, or only loads under way."""

READ_TO_COPY: Final = Script(
    STAMP
    + """
-- KEYS: stamp, value
local s = stamp()
if string.sub(s, 49) ~= '1' then
  s = string.sub(s, 1, 48) .. '1'
  redis.call('SET', KEYS[1], s)
end
return {s, redis.call('GET', KEYS[2]), redis.call('PTTL', KEYS[2])}
"""
)
"""Read a value for a copy in memory: from now on who changes something in the scope announces it."""

JOIN: Final = Script(
    """
-- KEYS: members  ARGV: name, milliseconds
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('PEXPIRE', KEYS[1], 60000)
return 1
"""
)
"""Note that a member may serve copies for so long."""

ANNOUNCE: Final = Script(
    """
-- KEYS: members  ARGV: channel, message
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('PUBLISH', ARGV[1], ARGV[2])
local found, left = redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf', 'WITHSCORES'), {}
for i = 1, #found, 2 do
  left[i] = found[i]
  left[i + 1] = math.ceil(tonumber(found[i + 1]) - now) + 1
end
return left
"""
)
"""Publish a change; every member, and for how many milliseconds it may serve copies."""

ENFORCE_QUOTA: Final = Script(
    """
-- KEYS: index  ARGV: quota, now, expiry, key, expiry, key, …
for i = 3, #ARGV, 2 do redis.call('ZADD', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[1])
if over <= 0 then return {} end
local popped, victims = redis.call('ZPOPMIN', KEYS[1], over), {}
for i = 1, #popped, 2 do victims[#victims + 1] = popped[i] end
return victims
"""
)
"""Note entries, and return those that have to make room."""

ADD_COUNTS: Final = Script(
    """
-- KEYS: counters  ARGV: name, count, name, count, …
for i = 1, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
"""
)
