"""The queue in Redis (or Valkey): one named connection, a few scripts, no retries.

Frames wait in the list `working`. A subscriber moves them into the busy list that bears the
name of its connection, and deletes that list once the store has committed: a frame is in one
of the two at every instant. What keeps that true:

* OWNER names one connection. It is the connection's client name, random, set before its
  first command, and never used again. An owner lives exactly as long as CLIENT LIST shows
  it; a client that is gone from there can run no command any more.
* After any error the connection, its name and its lease are dropped. A reply that was lost
  may still have been a frame: it lies in the old busy list, and a confirm under the old name
  would delete it unread. The sweep brings it back, since its owner is gone.
* One redis-py Connection, connected once, by us. Neither pool nor retries nor health checks:
  each of them sends a command twice or connects anew in silence, under the same name.
* A collector's connection is the only one of its source (rivals.py).
* Whatever moves frames or counts their bytes is one script (a push: one transaction), so it
  happens whole or not. A script's first line has to be `#!lua`: only then is one that meets
  `maxmemory` refused before its first write, not in its middle. What makes a full Redis emptier,
  or moves frames only, is marked allow-oom: a full one refuses even LMOVE, for ever.

Who adds a script names it in SCRIPTS; all are loaded on each new connection.
"""

import errno
import os
import re
import secrets
import select
import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from appliance.contracts import (
    LEASE_RECORDS_MAX,
    Death,
    Depth,
    Lease,
    Push,
    Pushed,
    Remark,
    SourceState,
)
from appliance.errors import Occupied, Unavailable
from appliance.frame import Buffer, name_of
from appliance.poison import ALONE_AFTER
from appliance.queues.address import RedisAddress
from appliance.queues.hints import check_version, durability, unavailable
from appliance.queues.keys import Keys
from appliance.queues.rivals import Rival, rivals, role_of_instance

FULL_WAIT_S = 0.2  # a Redis at maxmemory refuses to block: how long to wait instead
BLOCK_S_MIN = 0.001  # Redis counts milliseconds, and 0 means for ever
DEATHS_CHARS_MAX = 16 * 1024  # what is written down over one frame: some thousand deaths
ATTEMPTS_FRAMES_MAX = 10_000  # frames that something is written down over
ATTEMPTS_S = 24 * 3600  # without a new death all of it is forgotten: nothing of it stays for ever
JOINED_BYTES_MAX = 64 * 1024  # of a frame that is copied once more, to be one call instead of three
SCAN_COUNT = 1000  # keys that one SCAN step looks at
LEASE_STEP_BYTES = 256 * 1024  # a lease of more is read in steps of less, or of one larger frame
HEADERS_STEP = 32  # frames whose headers are read in one step, some milliseconds,
HEADERS_STEP_SMALL = 128  # or as many as this, where those of the step before were small:
SMALL_BYTES = 4096  # less than this each, on an average
UNBLOCK_TRIES_MAX = 50  # so often a server is asked to end our wait,
UNBLOCK_AGAIN_S = 0.1  # each time that nothing has come for so long
LIST_FRAMES_MAX = 2**32 - 1  # what a list of Redis can hold
BAD_BYTES_MAX = 16 * 1024**2  # what the list of bad items may hold
GIVE_WAY_LOOKS_MAX = 40  # so often a collector looks whether its rivals are gone,
GIVE_WAY_LOOK_S = 0.05  # and rests so long between two looks
SAID_BYTES_MAX = 100  # of an answer that isn't what was asked for
TEXT_HEAD = re.compile(rb"\$([0-9]+)\r\n")  # how a text begins (the RESP protocol)
BESIDE_ONE = 64  # bytes around a list of one item, as Redis sends it


# ── scripts ─────────────────────────────────────────────────────────────────────────────

# When SHUT was refused (only its script was forgotten, by a SCRIPT FLUSH amid our loading), all
# that waits lies where nobody looks (the last key), with the item of OPEN in front. The next push
# mends that; and recovery, if nobody pushes any more or a full server refuses OPEN.
WAIT_AGAIN = """
local incoming = KEYS[#KEYS]
if redis.call('EXISTS', incoming) == 1 then
  redis.call('LPOP', incoming)
  while redis.call('LMOVE', incoming, KEYS[1], 'RIGHT', 'LEFT') do end
end
"""

MEND = f"#!lua flags=allow-oom{WAIT_AGAIN}"

# A push is one transaction of three commands: OPEN decides; RPUSHX appends where a list of that
# name is, and does nothing else; SHUT writes down what has arrived. So no frame passes through a
# script: Lua copies each string, and Valkey hashes all of it, which was most of what the server
# computed for a push. OPEN's yes is that `working` goes by the name that RPUSHX uses. The item that
# it puts in front makes a list of none, is the first write (what can be refused is refused before
# there is another), and says how many there were: a frame that isn't there is never counted.
OPEN = f"""#!lua
local run, number, compare, before = ARGV[1], ARGV[2], ARGV[5], ARGV[6]
local known = redis.call('HMGET', KEYS[3], 'run', 'number', 'cursor')
{WAIT_AGAIN}
if known[1] == run and known[2] == number then return 'have it' end
if tonumber(redis.call('GET', KEYS[2]) or 0) >= tonumber(ARGV[9]) then return 'full' end
if compare == '1' and known[3] and '=' .. known[3] ~= before then return 'elsewhere' end

redis.call('LPUSH', KEYS[1], redis.call('LLEN', KEYS[1]))
local renamed = redis.pcall('RENAME', KEYS[1], KEYS[4])
if renamed.ok then return 'taken' end
redis.call('LPOP', KEYS[1])
return renamed
"""

SHUT = """#!lua flags=allow-oom
if redis.call('EXISTS', KEYS[4]) == 0 then return end
redis.call('RENAME', KEYS[4], KEYS[1])
local frames = tonumber(redis.call('LPOP', KEYS[1]))
if redis.call('LLEN', KEYS[1]) == frames then return redis.error_reply('ERR no frame came') end

local run, number, size = ARGV[1], ARGV[2], ARGV[10]
local known = redis.call('HMGET', KEYS[3], 'run', 'number')

-- Byte by byte: the < of Lua asks the server's locale, and some sort "aa" behind "z".
local function newer(a, b)
  for i = 1, #a do
    local left, right = a:byte(i), b:byte(i) or -1
    if left ~= right then return left > right end
  end
  return false
end

redis.call('INCRBY', KEYS[2], size)
if not known[1] or newer(run, known[1])
   or (run == known[1] and tonumber(number) > tonumber(known[2])) then
  redis.call('HSET', KEYS[3], 'run', run, 'number', number, 'records', ARGV[3], 'bytes', ARGV[4])
  if ARGV[7] == '1' then redis.call('HSET', KEYS[3], 'cursor', ARGV[8]) end
end
"""

NAME_OF = """
local function name_of(item)
  local line = item:match('^[^\\n]*')
  local run, number = line:match('"run":"([0-9a-f]+)"'), line:match('"number":([0-9]+)')
  return run and number and run .. ':' .. number
end
"""

# A small lease comes with the answer. Of a large one only its steps (frames, bytes, frames …): it
# is read from the busy list when it is wanted, so that nobody ever holds all of it once more.
TAKE = f"""#!lua flags=allow-oom
local bytes_max, records_max, step_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local has_deaths = redis.call('EXISTS', KEYS[3]) == 1
local items, steps, deaths, size, records, at = {{}}, {{}}, {{}}, 0, 0, -1
{NAME_OF}
repeat
  local item = redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT')
  if not item then break end
  size = size + #item
  if at < 0 or steps[at + 1] + #item >= step_bytes then
    at = at + 2
    steps[at], steps[at + 1] = 0, 0
  end
  steps[at], steps[at + 1] = steps[at] + 1, steps[at + 1] + #item
  items = size < step_bytes and items or {{}}
  items[#items + 1] = item
  records = records + (item:sub(1, 256):match('"records":([0-9]+)') or 0)
  local name = has_deaths and name_of(item)
  local known = name and redis.call('HGET', KEYS[3], name)
  if known then
    deaths[#deaths + 1] = name
    deaths[#deaths + 1] = known
  end
until size + #item > bytes_max or records >= records_max
return {{size < step_bytes and items or {{}}, steps, deaths}}
"""

CONFIRM = """#!lua flags=allow-oom
if redis.call('DEL', KEYS[1]) == 1 and redis.call('DECRBY', KEYS[2], ARGV[1]) < 0 then
  redis.call('SET', KEYS[2], 0)
end
for i = 2, #ARGV do redis.call('HDEL', KEYS[3], ARGV[i]) end
"""

GIVE_BACK = """#!lua flags=allow-oom
local frames = 0
while redis.call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'LEFT') do frames = frames + 1 end
return frames
"""

# What a dead owner left, with its death beside the frames that it had in hand (ARGV: the one
# frame's name, or none for all; the death's word; limits). In one step: given back once, told
# once. With several frames in hand none of them was one that goes alone.
GIVE_BACK_OF_DEAD = f"""#!lua flags=allow-oom
local frame, word, alone_after = ARGV[1], ARGV[2], tonumber(ARGV[3])
local chars_max, fields_max, expire_s = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
{NAME_OF}
local function write_down(name)
  local known = redis.call('HGET', KEYS[3], name)
  if not known then
    if redis.call('HLEN', KEYS[3]) >= fields_max then return end
  else
    local _, deaths = known:gsub('%S+', '')
    if #known + #word >= chars_max or (frame == '' and deaths >= alone_after) then return end
  end
  redis.call('HSET', KEYS[3], name, known and known .. ' ' .. word or word)
  redis.call('EXPIRE', KEYS[3], expire_s)
end

local frames = 0
while true do
  local item = redis.call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'LEFT')
  if not item then return frames end
  frames = frames + 1
  local name = name_of(item)
  if name and (frame == '' or frame == name) then write_down(name) end
end
"""

# The oldest bad items are kept: what began the trouble explains it. An operator may have taken
# the list away meanwhile, so its size is believed only as long as there is one.
SET_ASIDE = """#!lua flags=allow-oom
local item, size = ARGV[1], #ARGV[1]
if redis.call('LREM', KEYS[1], 1, item) == 0 then return 'not there' end
if redis.call('DECRBY', KEYS[2], size) < 0 then redis.call('SET', KEYS[2], 0) end
if redis.call('EXISTS', KEYS[3]) == 0 then redis.call('SET', KEYS[4], 0) end
if tonumber(redis.call('GET', KEYS[4]) or 0) + size > tonumber(ARGV[2]) then return 'gone' end
redis.call('RPUSH', KEYS[3], item)
redis.call('INCRBY', KEYS[4], size)
return 'kept'
"""

BIND = """#!lua flags=allow-oom
local known = redis.call('GET', KEYS[1])
if not known then redis.call('SET', KEYS[1], ARGV[1]) end
return known or ARGV[1]
"""

# After a FLUSHALL leases are confirmed that nobody counts any more, and the sum drifts.
ZERO_BYTES = """#!lua flags=allow-oom
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then return end
end
if redis.call('GET', KEYS[1]) ~= '0' then redis.call('SET', KEYS[1], 0) end
"""

DEPTH = """#!lua flags=no-writes,allow-oom
local busy = 0
for i = 3, #KEYS do busy = busy + redis.call('LLEN', KEYS[i]) end
return {redis.call('LLEN', KEYS[1]), busy, tonumber(redis.call('GET', KEYS[2]) or 0)}
"""

# Whole items stay where they are: only their first lines come out.
HEADERS = """#!lua flags=no-writes,allow-oom
local lines, size = {}, 0
for _, item in ipairs(redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])) do
  lines[#lines + 1] = item:match('^[^\\n]*')
  size = size + #item
end
return {lines, size}
"""

SCRIPTS = (
    MEND,
    OPEN,
    SHUT,
    TAKE,
    CONFIRM,
    GIVE_BACK,
    GIVE_BACK_OF_DEAD,
    SET_ASIDE,
    BIND,
    ZERO_BYTES,
    DEPTH,
    HEADERS,
)


def _deaths(attempts: Sequence[bytes]) -> dict[str, str]:
    """What is written down over frames, as Redis tells a hash: field, value, field, value …"""
    pairs = zip(attempts[::2], attempts[1::2], strict=True)
    return {field.decode(): value.decode() for field, value in pairs}


# ── queue ───────────────────────────────────────────────────────────────────────────────


class RedisQueue:
    """The contract `Queue` on a Redis; see the top of this file for what it relies on.

    `role` names the process in the connection's name, `bytes_max` is where push says full,
    `beat` is called before and after each command. No lock: one thread only. With an
    `instance`, its id, the connection is the only one of its role; a collector's has to be.
    `disk_is_low` tells push that the disk under the queue has no room to spare. `wake` is a
    descriptor that ends the waiting of a take when it becomes readable. `meanwhile` is called in
    each push, between the sending and the waiting for the answer.
    """

    def __init__(
        self,
        address: RedisAddress,
        password: str | None,
        name: str,
        role: str,
        bytes_max: int,
        reply_timeout_s: float,
        *,
        instance: str = "",
        disk_is_low: Callable[[], bool] = lambda: False,
        token: Callable[[], str] = lambda: secrets.token_hex(8),
        beat: Callable[[], None] = lambda: None,
        sleep: Callable[[float], None] = time.sleep,
        wake: int | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        assert re.fullmatch(r"[!-~]+", role), "a client name has no spaces"
        self._address = address
        self._password = password
        self._name = name
        self._role = role_of_instance(role, instance) if instance else role
        self._instance = instance
        self._rivals = f"{name}-{role}-"  # how the names of our own kind begin
        self._keys = Keys(name)
        self._bytes_max = bytes_max
        self._disk_is_low = disk_is_low
        self._reply_timeout_s = reply_timeout_s
        self._token, self._beat, self._sleep = token, beat, sleep
        self._wake = wake
        self._meanwhile = meanwhile
        self._connection: Any = None
        self._owner = ""  # empty: not connected, nothing is ours
        self._client = 0  # the server's own number for the connection
        self._held_bytes = 0  # in our busy list
        self._unread = 0  # frames of them that we haven't seen yet
        self._shas: dict[str, bytes] = {}
        self._server = ""  # its name and version

    @property
    def owner(self) -> str:
        """The name of the connection that is open now; empty if there is none."""
        return self._owner

    # collector

    def attach(self) -> None:
        """Be connected, and see that the connection still answers."""
        with self._talking():
            self._command("PING")

    def push(self, push: Push) -> Pushed:
        """Append a frame, atomically with the source's bookkeeping. Idempotent by number."""
        if self._disk_is_low():
            return Pushed.DISK_LOW
        # Also without a cursor of its own (a lost state directory): the queue's is the true one.
        compare = push.cursor_after is not None and not push.force
        before = "" if push.cursor_before is None else f"={push.cursor_before}"  # none isn't ""
        arguments = (
            push.run,
            push.number,
            push.records,
            push.bytes,
            int(compare),
            before,
            int(push.cursor_after is not None),
            push.cursor_after or "",
            self._bytes_max,
            len(push.header) + len(push.body),
        )
        with self._talking():
            self._send_push(push, arguments)
            self._meanwhile()
            return Pushed(self._verdict().decode())

    def _send_push(self, push: Push, arguments: Sequence[Any]) -> None:
        """Send the transaction at once; a large body goes from where it lies."""
        working, incoming = self._keys.working, self._keys.incoming
        keys = (working, self._keys.bytes, self._keys.source(push.source), incoming)
        size, told = len(push.header) + len(push.body), (len(keys), *keys, *arguments)
        begin = (
            *self._packed(("MULTI",), ("EVALSHA", self._shas[OPEN], *told)),
            b"*3\r\n$6\r\nRPUSHX\r\n$%d\r\n%b\r\n" % (len(incoming), incoming.encode()),
            b"$%d\r\n%b" % (size, push.header),
        )
        end = self._packed(("EVALSHA", self._shas[SHUT], *told), ("EXEC",))
        parts = (b"".join(begin), push.body, b"\r\n" + b"".join(end))
        self._send(parts if size > JOINED_BYTES_MAX else [b"".join(parts)])

    def _packed(self, *commands: Sequence[Any]) -> list[bytes]:
        packed: list[bytes] = self._connection.pack_commands(commands)
        return packed

    def _verdict(self) -> bytes:
        """What OPEN has answered within the transaction that was sent."""
        for _queued in ("MULTI", "OPEN", "RPUSHX", "SHUT"):
            self._reply()
        answers = self._reply()
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        verdict: bytes = answers[0]
        return verdict

    def source_state(self, source: str) -> SourceState | None:
        """What was last pushed for a source; None if nothing ever was."""
        with self._talking():
            return self._source_state(source)

    def source_states(self) -> dict[str, SourceState]:
        """The same of each source that the queue knows, configured or not."""
        with self._talking():
            names = [self._keys.name_of(key) for key in self._scan(self._keys.every_source)]
            states = {name: self._source_state(name) for name in names}
        return {name: state for name, state in states.items() if state}

    def _source_state(self, source: str) -> SourceState | None:
        fields = ("run", "number", "cursor", "records", "bytes")
        answer = self._command("HMGET", self._keys.source(source), *fields)
        run, number, cursor, records, size = answer
        if run is None:
            return None
        ended_at = None if cursor is None else cursor.decode()
        return SourceState(run.decode(), int(number), ended_at, int(records), int(size))

    # subscriber

    def bind(self, store: str) -> None:
        """Before the first take: frames of this queue go into this store, and into no other."""
        with self._talking():
            known = self._run(BIND, (self._keys.store,), store).decode(errors="replace")
        if known != store:
            raise Unavailable(
                f"the queue's frames belong to another store (its id is {known}, not {store})",
                "let [store] name that one again, or, once nothing is queued any more,"
                f" free the queue for this one: {self._address.client} DEL '{self._keys.store}'",
                loud=True,
            )

    def take(self, bytes_max: int, wait_s: float) -> Lease | None:
        """Move frames into this owner's hands, as many as bytes_max has room for (at least one).

        Waits up to wait_s when there is none, or until `wake` is readable; then None.
        """
        assert not self._held_bytes, "one lease at a time: the busy list holds exactly it"
        with self._talking():
            lists = (self._keys.working, self._keys.busy(self._owner))
            keys = (*lists, self._keys.attempts)
            limits = (bytes_max, LEASE_RECORDS_MAX, LEASE_STEP_BYTES)
            items, steps, attempts = self._run(TAKE, keys, *limits)
            frames, size, deaths = sum(steps[::2]), sum(steps[1::2]), _deaths(attempts)
            if not frames:
                item, deaths = self._wait_for_one(lists, wait_s)
                if item is None:
                    return None
                items, frames, size = [item], 1, len(item)
        self._held_bytes, self._unread = size, frames - len(items)
        shown = items if size < LEASE_STEP_BYTES else self._read(self._owner, items, steps)
        return Lease(self._owner, frames, shown, deaths)

    def _read(self, owner: str, came: list[Buffer], steps: Sequence[int]) -> Iterator[Buffer]:
        """The items of a lease, oldest first: the one that came, or all of them in their steps.

        Counted from the right: what is set aside meanwhile was read, so it moves nothing there.
        """
        while came:
            yield came.pop()
        room = bytearray()
        for count, size in zip(steps[::2], steps[1::2], strict=True):
            with self._holding(owner):
                last = count - self._unread - 1
                asked = ("LRANGE", self._keys.busy(owner), -self._unread, last)
                if count > 1:
                    items: list[Buffer] = self._command(*asked)
                else:
                    room = room if len(room) >= size + BESIDE_ONE else bytearray(size + BESIDE_ONE)
                    items = [self._command_for_one(asked, size, memoryview(room))]
                if len(items) != count:
                    raise Unavailable(f"Redis at {self._address}: frames in hand are gone")
            self._unread -= count
            items.reverse()
            while items:
                yield items.pop()

    def _command_for_one(self, words: Sequence[Any], size: int, room: memoryview) -> memoryview:
        """Ask for a list of one item of this size, and have it received where it shall be.

        redis-py would have it in memory three times for a moment: as it came, in pieces, and as
        the answer. That costs more than the kernel's copy.
        """
        self._send(self._connection.pack_command(*words))
        item = self._received(b"*1\r\n$%d\r\n" % size, size, room)
        self._beat()
        return item

    def _received(self, head: bytes, size: int, room: memoryview) -> memoryview:
        """An answer that begins with this head, and has so many bytes behind it."""
        end = len(head) + size
        came = 0
        while came < end + len(b"\r\n"):
            more = self._connection._sock.recv_into(room[came : end + len(b"\r\n")])
            if not more:
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            came += more
            known = min(came, len(head))
            if room[:known] != head[:known]:
                said = bytes(room[: min(came, SAID_BYTES_MAX)])
                raise Unavailable(f"Redis at {self._address}: no frame came, but {said!r}")
        return room[len(head) : end]

    def _wait_for_one(
        self, lists: tuple[str, str], wait_s: float
    ) -> tuple[Buffer | None, dict[str, str]]:
        """One frame, if there is one in time, and the deaths over it as they are then."""
        if wait_s < BLOCK_S_MIN:
            return None, {}
        take = ("BLMOVE", *lists, "LEFT", "RIGHT", f"{wait_s:.3f}")
        # Sent together: the server answers the second when the first is done.
        self._send(self._connection.pack_commands([take, ("HGETALL", self._keys.attempts)]))
        if self._is_woken(wait_s):
            self._unblock()
        is_full = False
        try:
            item = self._large_reply() or self._reply()
        except OutOfMemoryError:  # refused before it did anything, so the connection is sound
            item, is_full = None, True
        known = _deaths(self._reply())
        if is_full:
            self._sleep(min(FULL_WAIT_S, wait_s))
        if item is None:
            return None, {}
        name = name_of(item) if known else ""
        return item, ({name: known[name]} if name in known else {})

    def _large_reply(self) -> memoryview | None:
        """The frame that the server answers with, if it is a large one (see _command_for_one)."""
        try:
            begins = self._connection._sock.recv(BESIDE_ONE, socket.MSG_PEEK)
        except ValueError:  # TLS: what comes can't be looked at beforehand
            return None
        head = TEXT_HEAD.match(begins)
        size = int(head[1]) if head else 0
        if not head or size < LEASE_STEP_BYTES:
            return None
        return self._received(head[0], size, memoryview(bytearray(size + BESIDE_ONE)))

    def _is_woken(self, wait_s: float) -> bool:
        """Block until the server answers; True: until somebody wants us.

        Not only for wait_s: a server that seldom looks at its clock (the embedded one) ends our
        wait up to a second late, and who wants us then shall not wait for that.
        """
        poller = self._poller()
        if self._wake is not None:
            poller.register(self._wake, select.POLLIN)
        ready = [fd for fd, _ in poller.poll((wait_s + self._reply_timeout_s) * 1000)]
        if not ready:
            raise TimeoutError("no answer to a wait that is over")
        return ready == [self._wake]

    def _poller(self) -> select.poll:
        """What waits for an answer; redis-py itself can only read it, or connect anew."""
        poller = select.poll()
        poller.register(self._connection._sock, select.POLLIN)
        return poller

    def _unblock(self) -> None:
        """Have the server end our wait now, as if its time were over.

        Over another connection, since ours waits. To drop ours instead would leave a frame that
        is on its way to recovery. Where the two arrive in another order than they were sent,
        there is no wait to end yet: so it is asked again until our own answer is there.
        """
        name = f"{self._owner}-unblock"
        other = self._address.connection(self._password, name, self._reply_timeout_s)
        try:
            other.connect()
            for _ in range(UNBLOCK_TRIES_MAX):
                other.send_command("CLIENT", "UNBLOCK", self._client)
                other.read_response()
                if self._poller().poll(UNBLOCK_AGAIN_S * 1000):
                    return
        finally:
            other.disconnect()

    def confirm(self, lease: Lease) -> None:
        """Forget the lease, and the deaths over its frames: the store has committed it.

        Raises Unavailable if the owner's connection is gone (somebody else may have it).
        """
        assert not self._unread, "nobody has seen all of what would be forgotten"
        with self._holding(lease.owner):
            keys = (self._keys.busy(lease.owner), self._keys.bytes, self._keys.attempts)
            self._run(CONFIRM, keys, self._held_bytes, *lease.deaths)
            self._held_bytes = 0

    def give_back(self, lease: Lease) -> None:
        """Put the lease back in front, oldest first. Raises like confirm."""
        with self._holding(lease.owner):
            self._run(GIVE_BACK, (self._keys.busy(lease.owner), self._keys.working))
            self._held_bytes = self._unread = 0

    def set_aside(self, lease: Lease, item: Buffer) -> bool:
        """Move one item of the lease that can't be read to the list of bad items.

        False: that list is full, so the item is gone.
        """
        keys = self._keys
        with self._holding(lease.owner):
            places = (keys.busy(lease.owner), keys.bytes, keys.bad, keys.bad_bytes)
            done = self._run(SET_ASIDE, places, bytes(item), BAD_BYTES_MAX)
            self._held_bytes -= 0 if done == b"not there" else len(item)
        return bool(done != b"gone")

    # recovery

    def sweep(self, deaths: Sequence[Death] = ()) -> int:
        """Give back what belongs to owners that no longer exist; how many frames.

        A death that names the owner is written down beside the frames that were in hand.
        """
        death_of = {death.owner: death for death in deaths}
        with self._talking():
            self._run(MEND, (self._keys.working, self._keys.incoming))
            # In this order: a busy list that was seen has an owner who was there before.
            busy, alive = self._scan_busy(), self._owners_alive()
            orphans = {key: self._keys.owner(key) for key in busy}
            frames = sum(
                self._give_back_orphans(key, death_of.get(owner))
                for key, owner in orphans.items()
                if owner not in alive
            )
            self._run(ZERO_BYTES, (self._keys.bytes, self._keys.working, *self._every(busy, alive)))
        return int(frames)

    def _give_back_orphans(self, busy: str, death: Death | None) -> int:
        if death is None:
            return int(self._run(GIVE_BACK, (busy, self._keys.working)))
        keys = (busy, self._keys.working, self._keys.attempts)
        limits = (ALONE_AFTER, DEATHS_CHARS_MAX, ATTEMPTS_FRAMES_MAX, ATTEMPTS_S)
        return int(self._run(GIVE_BACK_OF_DEAD, keys, death.frame, death.word, *limits))

    def depth(self) -> Depth:
        """How much is queued now, all three numbers at one instant.

        A frame that a newborn owner took a moment ago may be missing in `busy`, never in
        `bytes`: nothing is queued when all three are 0.
        """
        with self._talking():
            busy = self._all_busy()
            return Depth(*self._run(DEPTH, (self._keys.working, self._keys.bytes, *busy)))

    def headers(self, frames_max: int) -> list[bytes]:
        """The header lines of frames that are queued: the oldest that wait, then all in hand."""
        with self._talking():
            steps = [*self._walk(self._keys.working, frames_max)]
            waiting = [line for step in reversed(steps) for line in step]
            in_hand = [
                line for key in self._all_busy() for step in self._walk(key) for line in step
            ]
        return waiting[:frames_max] + in_hand

    def every_header(self) -> Iterator[list[bytes]]:
        """The same of all that is queued, in no order and in steps: it may not fit into memory."""
        with self._talking():
            yield from self._walk(self._keys.working)
            for key in self._all_busy():
                yield from self._walk(key)

    def _walk(self, key: str, frames_max: int = LIST_FRAMES_MAX) -> Iterator[list[bytes]]:
        """Header lines of a list's left end: a few at a time, so that nobody else waits long.

        It begins with the newest and counts from the right. So whatever is taken from the left
        meanwhile, or given back there, moves no frame past us; a push makes us read some twice.
        To find its place costs the server the way there from the nearer end, in each step.
        """
        at = max(0, self._command("LLEN", key) - frames_max)
        step = HEADERS_STEP
        while True:
            lines, size = self._run(HEADERS, (key,), -at - step, -at - 1)
            yield lines
            if len(lines) < step:
                return
            at += step
            step = HEADERS_STEP_SMALL if size < SMALL_BYTES * step else HEADERS_STEP

    # check

    def look(self, sources: Collection[str]) -> list[Remark]:
        """What is there and whether it will serve (`sources`: those that are configured).

        Changes nothing. Raises Unavailable like all that speaks to Redis.
        """
        depth = self.depth()
        with self._talking():
            settings = self._settings()
            known = {self._keys.name_of(key) for key in self._scan(self._keys.every_source)}
        waiting = f"{depth.frames} frames wait, {depth.busy} in hand ({depth.bytes} bytes)"
        remarks = [Remark(f"{self._server}, {waiting}"), *durability(settings)]
        for name in sorted(known - {*sources}):
            text = f"it knows a source {name} that isn't configured; its frames are stored as text"
            remarks.append(Remark(text, "nothing, or configure it again to have columns filled"))
        return remarks

    def keys(self) -> list[str]:
        """All keys of this instance, whatever they hold."""
        with self._talking():
            return self._scan(self._keys.every)

    def delete_all(self) -> None:
        """Delete all keys of this instance: frames that wait in them are gone."""
        with self._talking():
            for key in self._scan(self._keys.every):
                self._command("UNLINK", key)

    def _settings(self) -> dict[str, str]:
        """The server's settings that matter to us; empty where it doesn't tell."""
        try:
            answer = self._command("CONFIG", "GET", "append*", "maxmemory*")
        except ResponseError:  # not this user's right, or no such command (managed servers)
            return {}
        words = [word.decode(errors="replace") for word in answer]
        return dict(zip(words[::2], words[1::2], strict=True))

    def _scan_busy(self) -> list[str]:
        return self._scan(self._keys.every_busy)

    def _scan(self, pattern: str) -> list[str]:
        found: set[str] = set()  # SCAN may show a key twice
        cursor = b"0"
        while True:
            cursor, keys = self._command("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)
            found.update(key.decode() for key in keys)
            if cursor == b"0":
                return sorted(found)

    def _owners_alive(self) -> set[str]:
        return set(re.findall(rf" name=({re.escape(self._name)}-\S+)", self._clients()))

    def _clients(self) -> str:
        listing: bytes = self._command("CLIENT", "LIST")
        return listing.decode(errors="replace")

    def _all_busy(self) -> list[str]:
        return self._every(self._scan_busy(), self._owners_alive())

    def _every(self, busy: list[str], alive: set[str]) -> list[str]:
        """All busy lists that there may be: those seen, and those that came since the scan."""
        return sorted({*busy, *map(self._keys.busy, alive)})

    # connection

    def close(self) -> None:
        """Drop connection, name and lease; what is in the busy list becomes an orphan."""
        connection, self._connection = self._connection, None
        self._owner, self._held_bytes, self._unread = "", 0, 0
        if connection is not None:
            connection.disconnect()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Commands to Redis, on a new connection if there is none; any failure drops it.

        Any: also an exception that isn't Redis's. A reply may be on its way, and redis-py
        would connect again, in silence and under the old name, at the next command.
        """
        finished = False
        try:
            if self._connection is None:
                self._connect()
            yield
            finished = True
        except (RedisError, OSError) as error:
            raise unavailable(error, self._address) from error
        finally:
            if not finished:
                self.close()

    @contextmanager
    def _holding(self, owner: str) -> Iterator[None]:
        """Commands about a lease: under the connection that took it, or not at all."""
        if owner != self._owner:
            raise Unavailable("the connection that held the lease is gone; it is given back")
        with self._talking():
            yield

    def _connect(self) -> None:
        owner = f"{self._name}-{self._role}-{self._token()}"
        self._beat()
        self._connection = self._address.connection(self._password, owner, self._reply_timeout_s)
        self._connection.connect()
        loads = [("SCRIPT", "LOAD", script) for script in SCRIPTS]
        asked = (("INFO", "server"), ("CLIENT", "ID"), *loads, ("MULTI",), ("EXEC",))
        self._send(self._packed(*asked))
        self._server = check_version(self._reply().decode(errors="replace"))
        self._client = self._reply()
        self._shas = {script: self._reply() for script in SCRIPTS}
        for _try in ("MULTI", "EXEC"):  # where they may not be used, a push would be no transaction
            self._reply()
        if self._instance:
            self._be_the_only_one(owner)
        self._owner = owner

    def _be_the_only_one(self, owner: str) -> None:
        """End our predecessors; before a living other instance, give way.

        Raises:
            Occupied: another instance was connected first, or doesn't go.
        """
        for _ in range(GIVE_WAY_LOOKS_MAX):
            number, others = rivals(self._clients(), self._rivals, owner)
            if not others:
                return
            foreign = [rival for rival in others if rival.instance != self._instance]
            if foreign and foreign[0].number < number:
                raise self._occupied(foreign[0])
            for rival in others:
                if rival.instance == self._instance:
                    self._command("CLIENT", "KILL", "ID", rival.number)
            self._sleep(GIVE_WAY_LOOK_S)
        if foreign:
            raise self._occupied(foreign[0])
        raise Unavailable(
            f"Redis at {self._address}: the connection of a predecessor of this collector stays"
        )

    def _occupied(self, rival: Rival) -> Occupied:
        return Occupied(
            f"Redis at {self._address}: another instance named {self._name} collects this source:"
            f" instance {rival.instance} from {rival.address} (client {rival.number}),"
            f" and this is instance {self._instance}",
            "stop that one first, or give this one another name",
        )

    def _run(self, script: str, keys: Sequence[str], *arguments: Any) -> Any:
        return self._command("EVALSHA", self._shas[script], len(keys), *keys, *arguments)

    def _command(self, *words: Any) -> Any:
        self._send(self._connection.pack_command(*words))
        return self._reply()

    def _send(self, packed: Sequence[Any]) -> None:
        self._beat()
        self._connection.send_packed_command(packed, check_health=False)

    def _reply(self) -> Any:
        try:
            return self._connection.read_response()
        finally:
            self._beat()
