"""The Lua scripts of the Valkey store: each is atomic, and touches only the keys it is given.

They are sent by their digest. A server that does not know it, because it was restarted or is new,
refuses, and then gets the text.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Script(NamedTuple):
    """A script, and the digest by which a server knows it."""

    text: str
    digest: str


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


# ARGV: how the value must begin, how long that is (-1: all of it), and SET's arguments.
COMPARE_AND_SET = _script("""
local held = redis.pcall('GET', KEYS[1])
if type(held) ~= 'string' or string.sub(held, 1, tonumber(ARGV[2])) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], unpack(ARGV, 3))
return 1
""")

# ARGV: how the value must begin, and how long that is.
COMPARE_AND_DELETE = _script("""
local held = redis.pcall('GET', KEYS[1])
if type(held) ~= 'string' or string.sub(held, 1, tonumber(ARGV[2])) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""")

# ARGV: the delta, and SET's arguments for a missing key; without these the key stays missing.
# Lua would round INCRBY's reply to 53 bits, so the value is read again.
INCREMENT = _script("""
if redis.call('EXISTS', KEYS[1]) == 1 then
    local sum = redis.pcall('INCRBY', KEYS[1], ARGV[1])
    if type(sum) == 'table' then return sum end
elseif ARGV[2] == nil then
    return false
elseif ARGV[2] == '' then
    return redis.error_reply('ERR increment or decrement would overflow')
else
    redis.call('SET', KEYS[1], unpack(ARGV, 2))
end
return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}
""")
