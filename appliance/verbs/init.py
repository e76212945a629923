"""`stream-daemon init`: print a commented configuration to start from.

It runs as it is, with nothing else installed. Lines that begin with `#key` or `#[section]` are
keys at their defaults or examples: take the # away and they are valid too (a test does).
"""

import argparse

EXAMPLE = """\
# Configuration of stream-daemon. Save it as stream-daemon.toml, or as
# /etc/stream-daemon/stream-daemon.toml, then:
#
#   stream-daemon check               is it valid, and will it work?
#   stream-daemon collect             start, in the foreground
#   stream-daemon status              what does it do now?
#
# Lines that begin with "#" and a key show a default or an example. All keys with their
# defaults and units: docs/configuration.md.
# Sizes: a number of bytes, or "64KiB", "1MiB", "2GiB" (KB, MB, GB = 1000).
# Times end in _s (seconds) or _ms (milliseconds).

# The instance's name: in process titles, Redis keys, and the ledger's tables (stream_runs …).
name = "stream"

# All files of the instance live in state_dir/NAME/. Default: $STATE_DIRECTORY (systemd sets
# it), else /var/lib/stream-daemon for root, else ~/.local/state/stream-daemon.
#state_dir = "/var/lib/stream-daemon"

# Processes that store records. "auto": one for each core, 2 to 4, and 1 for SQLite.
# 0: none, cron runs `stream-daemon drain` now and then.
#subscribers = "auto"

# How long a stop may take to hand over and store what is in hand.
#drain_s = 60

# `collect --detach` returns when the instance is ready, or after so long. With require_healthy,
# a start without queue or store ends then (exit code 69) instead of waiting for them.
#ready_s = 30
#require_healthy = false
# While less is free on the disk of state_dir, nothing more is put there: sources stop reading.
#disk_free_min = "1GiB"

# ── sources: one [source.NAME] for each stream ──────────────────────────────────────────

# Senders connect to us and write one record a line. Try it:
#   printf 'hello\\nworld\\n' | nc -N 127.0.0.1 5170
[source.lines]
type = "tcp"
listen = "127.0.0.1:5170"       # ":5170" listens on all interfaces
#connections_max = 1000
#close_wait_s = 5               # at a stop: wait so long for senders to close
#format = "json"                # default "text"; needed by paths in filters and in columns
#include = { path = "text", any = ["Patriots", "Packers"] }   # keep records with such a word
#exclude = [{ path = "lang", equals = "und" }, { path = "text", regex = '^RT @\\w+:' }]
#record_bytes_max = "1MiB"      # a longer record becomes a dead letter
#frame_bytes_max = "1MiB"       # what is handed to Redis at once
#frame_interval_ms = 5          # and how often, at most

# The same for senders on this machine: nc -NU /run/stream-daemon/lines.sock
#[source.local]
#type = "unix"
#listen = "/run/stream-daemon/lines.sock"
#mode = "0660"                  # who may send: the owner and the group; "0666": everybody
#owner = "root:adm"             # default: who runs it
#format = "json"

# A server that sends to whoever connects to it. We do, again and again.
#[source.feed]
#type = "tcp"
#connect = "stream.example.net:5170"
#format = "json"

# A file that grows. The position in it is kept.
#[source.log]
#type = "file"
#path = "/var/log/app.log"
#start = "beginning"            # or "end": only what is appended from now on
#follow = true                  # false: read to the end once
#format = "json"

# Standard input: zcat old.gz | stream-daemon collect
#[source.input]
#type = "stdin"
#format = "json"

# ── queue: where records wait, safe ─────────────────────────────────────────────────────

[queue]
url = "embedded"                # our own server; or redis://host:6379/0, unix:///path/to/socket
#bytes_max = "2GiB"             # full: records go to the spool
#push_s = 2                     # so long may Redis take to answer

# ── spool: where records wait on this machine's disk while the queue takes none ─────────

#[spool]
#bytes_max = "8GiB"             # full: sources stop reading until there is room

# ── store: where records end up ─────────────────────────────────────────────────────────

[store]
url = "embedded"                # SQLite, in state_dir/NAME/NAME.db; or one of
#                                 sqlite:///path/to/file.db         (an absolute path)
#                                 mysql://user@host:3306/database   (MySQL or MariaDB),
#                                 with ?tls=require&ca=/path to verify the server
# The password of a mysql:// user is never in the URL:
#   password = { file = "/path" }, { env = "NAME" } or { cred = "systemd credential" }
table = "records"               # made if it is missing
#lease_bytes_max = "4MiB"       # about so much is stored in one transaction

# Without columns the table has source, received_at and raw. A path leads into a JSON record:
#[store.columns]
#id = { path = "id", type = "BIGINT" }
#author = { path = "user.screen_name", type = "VARCHAR(64)" }
#raw = { path = "", type = "LONGTEXT" }                   # "": the record exactly as it came
#seen = { meta = "received_at", type = "DATETIME(6)" }    # or source, run, frame, position

# ── log ─────────────────────────────────────────────────────────────────────────────────

[log]
level = "info"                  # debug, info, warning, error
#to = "stderr"                  # or a file: "/var/log/stream-daemon/stream.log"
#format = "text"                # or "json": one object a line
"""


def run(_args: argparse.Namespace) -> int:
    """Print a commented example configuration."""
    print(EXAMPLE, end="")
    return 0
