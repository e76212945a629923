"""The textbook way from TCP into a database, to be compared with: two small programs.

    python -m tests.bench.textbook collect PORT REDIS
    python -m tests.bench.textbook work REDIS MARIADB DATABASE TABLE

`collect` reads lines from a TCP connection and RPUSHes each. `work` moves up to 500 of them
into a list of its own by RPOPLPUSH, INSERTs them 100 at a time, and LREMs each. REDIS and
MARIADB are paths of Unix sockets.

This is what one writes on the first day, and it is what many run. Make it faster if you can:
whoever loses nothing when killed, stores nothing twice, and keeps the same settings of the
servers, is welcome. (This one does store twice when killed between INSERT and LREM.)
"""

import os
import socket
import sys
from typing import Any

import pymysql
import redis

TAKEN_MAX = 500
INSERTED_MAX = 100
WAIT_S = 1
PASSWORD_VARIABLE = "TEXTBOOK_PASSWORD"


def collect(port: int, client: "redis.Redis") -> None:
    """Push each line of each connection, one connection after the other."""
    with socket.create_server(("127.0.0.1", port)) as server:
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    client.rpush("queue", line.rstrip(b"\n"))


def work(client: "redis.Redis", database: Any, table: str) -> None:
    """Store what is in the queue, for ever."""
    while True:
        records = take(client)
        texts = [record.decode() for record in records]
        for at in range(0, len(texts), INSERTED_MAX):
            with database.cursor() as cursor:
                cursor.executemany(
                    f"INSERT INTO `{table}` (`raw`) VALUES (%s)", texts[at : at + INSERTED_MAX]
                )
            database.commit()
        for record in records:
            client.lrem("busy", 1, record)


def take(client: "redis.Redis") -> list[bytes]:
    """Up to TAKEN_MAX records, now in the list `busy`; waits for the first."""
    records = []
    record = client.brpoplpush("queue", "busy", WAIT_S)
    while record is not None:
        records.append(record)
        if len(records) == TAKEN_MAX:
            break
        record = client.rpoplpush("queue", "busy")
    return records


def main() -> None:
    """One of the two programs."""
    match sys.argv[1:]:
        case ["collect", port, path]:
            collect(int(port), redis.Redis(unix_socket_path=path))
        case ["work", path, mariadb, name, table]:
            database = pymysql.connect(
                unix_socket=mariadb,
                user="stream",
                password=os.environ[PASSWORD_VARIABLE],
                database=name,
                charset="utf8mb4",
            )
            work(redis.Redis(unix_socket_path=path), database, table)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
