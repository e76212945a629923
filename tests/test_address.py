"""Where a MySQL or MariaDB is, and TLS on the way there, tried on real servers of both kinds."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.config import Column
from appliance.errors import ConfigError, Unavailable
from appliance.stores.address import MySQLAddress, parse_url
from appliance.stores.mysql import MySQLStore
from tests.certificates import make_certificates
from tests.database_server import PASSWORD, Database, DatabaseServer, new_database, private_server
from tests.mariadb_server import MariaDBServer
from tests.mysql_server import MySQLServer

KINDS = [MariaDBServer, MySQLServer]
NASTY = 'it\'s "all" 50% #hash \\back\\ é🏈 :@/?&'
LONG = "p" * 230  # more than the RSA exchange of a login without TLS can carry


def open_store(url: str, password: str = PASSWORD) -> MySQLStore:
    """A store that has its session and tables."""
    store = MySQLStore(
        parse_url(url), password, "nfl", "records", {"x": Column(type="INT", path="x")}, 1024
    )
    store.prepare()
    return store


def cipher(url: str, password: str = PASSWORD) -> str:
    """What encrypts the session that this URL leads to; nothing: "" ."""
    store = open_store(url, password)
    [(_, name)] = store.run("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    store.close()
    return str(name)


def refusal(url: str, password: str = PASSWORD) -> Unavailable:
    """Why this URL leads to no session; said loudly, without the password."""
    with pytest.raises(Unavailable) as caught:
        open_store(url, password)
    assert caught.value.loud
    assert password not in str(caught.value)
    return caught.value


# ── addresses ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mysql://u@db.example/d", MySQLAddress("db.example", 3306, "u", "d")),
        ("mysql://u@[2001:db8::1]:3307/d", MySQLAddress("2001:db8::1", 3307, "u", "d")),
        ("mysql://a%40b@h/d%2Fe", MySQLAddress("h", 3306, "a@b", "d/e")),
        (
            "mysql://u@/d?unix_socket=/run/my%20sql",
            MySQLAddress("localhost", 3306, "u", "d", "/run/my sql", tls="off"),
        ),
        ("mysql://u@h:1/d?unix_socket=/s", MySQLAddress("h", 1, "u", "d", "/s", tls="off")),
        (
            "mysql://u@h/d?unix_socket=/s&tls=prefer",
            MySQLAddress("h", 3306, "u", "d", "/s", tls="off"),
        ),
        ("mysql://u@h/d?tls=off", MySQLAddress("h", 3306, "u", "d", tls="off")),
        ("mysql://u@h/d?tls=require", MySQLAddress("h", 3306, "u", "d", tls="require")),
        ("mysql://u@h/d?ca=/a%20b", MySQLAddress("h", 3306, "u", "d", tls="require", ca="/a b")),
        (
            "mysql://u@h/d?tls=require&ca=/a",
            MySQLAddress("h", 3306, "u", "d", tls="require", ca="/a"),
        ),
    ],
)
def test_addresses(url: str, address: MySQLAddress) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "[::1]"])
def test_on_this_machine_tls_has_to_be_asked_for(host: str) -> None:
    assert parse_url(f"mysql://u@{host}/d").tls == "off"
    assert parse_url(f"mysql://u@{host}/d?tls=prefer").tls == "prefer"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:secret@h/d",
        "mysql://h/d",
        "mysql://u@h",
        "mysql://u@/d",
        "mysql://u@/d?unix_socket=",
        "mysql://u@h:port/d",
        "mysql://u@h/d?charset=latin1",
        "mysql://u@h/d?tls=",
        "mysql://u@h/d?tls=on",
        "mysql://u@h/d?ca=",
        "mysql://u@h/d?ca=relative.pem",
        "mysql://u@h/d?tls=off&ca=/a",
        "mysql://u@h/d?tls=prefer&ca=/a",
        "mysql://u@/d?unix_socket=/s&tls=require",
        "mysql://u@/d?unix_socket=/s&ca=/a",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)
    assert caught.value.hint


# ── with TLS and without ────────────────────────────────────────────────────────────────


def test_the_session_is_encrypted_as_the_url_says(server_database: Database) -> None:
    url, server = server_database.url(), server_database.server
    ca = server.certificates.ca
    for encrypted in ("tls=prefer", "tls=require", f"tls=require&ca={ca}", f"ca={ca}"):
        assert cipher(f"{url}?{encrypted}").startswith("TLS_"), encrypted
    for plain in ("", "?tls=off", f"?unix_socket={server.unix_socket}"):
        assert cipher(url + plain) == "", plain


def test_a_server_of_another_authority(server_database: Database, tmp_path: Path) -> None:
    """It is refused until `ca` names the right one; the file is read again at each try."""
    ca = make_certificates(tmp_path, "127.0.0.1").ca
    url = f"{server_database.url()}?ca={ca}"
    error = refusal(url)
    assert "certificate is not accepted" in error.message
    assert f"{ca} doesn't" in error.hint
    ca.write_bytes(server_database.server.certificates.ca.read_bytes())
    assert cipher(url)


def test_a_certificate_for_another_host(server_database: Database) -> None:
    url = server_database.url().replace("127.0.0.1", "localhost")
    error = refusal(f"{url}?ca={server_database.server.certificates.ca}")
    assert "certificate is not valid for 'localhost'" in error.message
    assert "name the host in store.url as its certificate does" in error.hint
    assert cipher(f"{url}?tls=require")


def test_a_certificate_that_has_expired(tmp_path: Path) -> None:
    old = make_certificates(tmp_path, "127.0.0.1", days=-1)
    options = [f"--ssl-cert={old.certificate}", f"--ssl-key={old.key}", f"--ssl-ca={old.ca}"]
    with private_server(MariaDBServer, options) as server, new_database(server) as database:
        error = refusal(f"{database.url()}?ca={old.ca}")
        assert "expired" in error.message
        assert "renew" in error.hint


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), (b"", "no cert"), (b"\0", "no cert")]
)
def test_a_file_of_authorities_that_cannot_be_used(
    mariadb_database: Database, tmp_path: Path, content: bytes | None, said: str
) -> None:
    ca = tmp_path / "ca.pem"
    if content is not None:
        ca.write_bytes(content)
    error = refusal(f"{mariadb_database.url()}?ca={ca}")
    assert said in error.message
    assert str(ca) in error.message
    assert "certificates in PEM" in error.hint


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_without_tls(kind: type[DatabaseServer]) -> None:
    with private_server(kind, [kind.NO_TLS]) as server, new_database(server) as database:
        assert cipher(f"{database.url()}?tls=prefer") == ""
        for required in ("tls=require", f"ca={server.certificates.ca}"):
            error = refusal(f"{database.url()}?{required}")
            assert "SSL is required but the server doesn't support it (2026" in error.message
            assert "enable TLS on the server" in error.hint


def test_an_account_that_has_to_use_tls(server_database: Database) -> None:
    url, name = server_database.url().replace("stream@", "encrypted@"), server_database.name
    server_database.run(f"CREATE USER encrypted@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL")
    server_database.run(f"GRANT ALL ON {name}.* TO encrypted@'%'")
    try:
        error = refusal(f"{url}?tls=off")
        assert "1045" in error.message
        assert "?tls=require" in error.hint
        assert cipher(f"{url}?tls=require")
        wrong = refusal(f"{url}?tls=require", password="wrong")
        assert "tls=" not in wrong.hint
    finally:
        server_database.run("DROP USER encrypted@'%'")


def test_mysql_as_it_comes_and_tls_demanded_of_everybody() -> None:
    """It makes certificates of its own; they name no host, so they can't be verified."""
    own = ["--ssl-ca=ca.pem", "--ssl-cert=server-cert.pem", "--ssl-key=server-key.pem"]
    options = [*own, "--require-secure-transport=ON"]
    with private_server(MySQLServer, options) as server, new_database(server) as database:
        error = refusal(f"{database.url()}?tls=off")
        assert "3159" in error.message
        assert "?tls=require" in error.hint
        assert cipher(f"{database.url()}?tls=require")
        ca = Path(server.run("SELECT @@datadir")[0][0]) / "ca.pem"
        error = refusal(f"{database.url()}?ca={ca}")
        assert "certificate is not valid for '127.0.0.1'" in error.message


@contextmanager
def impostor(server: DatabaseServer, answer: bytes) -> Iterator[int]:
    """A port that greets as this server does, and answers the wish for TLS with something else."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, socket.create_connection((server.host, server.port)) as real:
            connection.sendall(real.recv(4096))
            connection.recv(4096)  # the wish for TLS, maybe with the client's hello behind it
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_a_server_that_speaks_no_tls_when_it_comes_to_it(mariadb_database: Database) -> None:
    server = mariadb_database.server
    with impostor(server, b"HTTP/1.1 400 Bad Request\r\n") as port:
        error = refusal(f"mysql://stream@127.0.0.1:{port}/d?tls=require")
    assert "no TLS with this server: WRONG_VERSION_NUMBER" in error.message


def test_a_server_that_goes_away_while_tls_begins_is_an_outage(mariadb_database: Database) -> None:
    with (
        impostor(mariadb_database.server, b"") as port,
        pytest.raises(Unavailable) as caught,
    ):
        open_store(f"mysql://stream@127.0.0.1:{port}/d?tls=require")
    assert not caught.value.loud


# ── logins ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def rsa_logins(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each login for which the password goes encrypted by the server's key."""
    auth = pytest.importorskip("pymysql._auth")
    encrypt, seen = auth.sha2_rsa_encrypt, []

    def counted(*arguments: Any) -> Any:
        seen.append(1)
        return encrypt(*arguments)

    monkeypatch.setattr(auth, "sha2_rsa_encrypt", counted)
    return seen


@contextmanager
def account(database: Database, name: str, identified: str) -> Iterator[str]:
    """An account of its own for this database; the URL for it."""
    database.run(f"CREATE USER {name}@'%' IDENTIFIED {identified}")
    database.run(f"GRANT ALL ON {database.name}.* TO {name}@'%'")
    try:
        yield database.url().replace("stream@", f"{name}@")
    finally:
        database.run(f"DROP USER {name}@'%'")


@pytest.mark.parametrize("way", ["tls=off", "tls=require", "unix_socket"])
def test_a_first_login_with_a_nasty_password(
    server_database: Database, way: str, rsa_logins: list[int]
) -> None:
    """With nothing cached yet MySQL wants the password itself: by RSA where nothing encrypts."""
    server, quoted = server_database.server, NASTY.replace("\\", "\\\\").replace("'", "''")
    more = f"unix_socket={server.unix_socket}" if way == "unix_socket" else way
    with account(server_database, "nasty", f"BY '{quoted}'") as url:
        server.run("FLUSH PRIVILEGES")
        open_store(f"{url}?{more}", NASTY).close()
        by_rsa = server.flavour == "mysql" and way == "tls=off"
        assert len(rsa_logins) == by_rsa
        open_store(f"{url}?{more}", NASTY).close()
        assert len(rsa_logins) == by_rsa, "the second login is cached"
        assert "1045" in refusal(f"{url}?{more}", NASTY + " ").message


def test_a_password_too_long_for_a_login_without_tls(mysql_database: Database) -> None:
    with account(mysql_database, "lengthy", f"BY '{LONG}'") as url:
        error = refusal(f"{url}?tls=off", LONG)
        assert "can't log in" in error.message
        assert "?tls=require" in error.hint
        assert cipher(f"{url}?tls=require", LONG)


def test_a_login_that_nobody_has_taught_us(mariadb_database: Database) -> None:
    mariadb_database.run("INSTALL SONAME 'auth_ed25519'")
    try:
        with account(mariadb_database, "edward", "VIA ed25519 USING PASSWORD('secret')") as url:
            error = refusal(url, "secret")
    finally:
        mariadb_database.run("UNINSTALL SONAME 'auth_ed25519'")
    assert "can't log in" in error.message
    assert "caching_sha2_password" in error.hint
