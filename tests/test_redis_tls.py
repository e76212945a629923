"""TLS to a real redis-server: what is trusted, what isn't, and what is said about it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from appliance.contracts import Depth
from appliance.errors import ConfigError, Unavailable
from appliance.queues.address import RedisAddress
from appliance.queues.redis import RedisQueue
from tests.authority import Authority
from tests.ports import free_port
from tests.redis_servers import PrivateRedis, find_redis


@dataclass
class Place:
    """A Redis that speaks TLS, who signed its certificate, and a stranger."""

    server: PrivateRedis
    ours: Authority
    other: Authority
    folder: Path

    @property
    def port(self) -> int:
        return int(self.server.options["tls-port"])

    def address(self, **options: Path) -> RedisAddress:
        words = "&".join(f"{name}={path}" for name, path in options.items())
        return RedisAddress.parse(f"rediss://localhost:{self.port}/0?{words}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("tls")
    ours, other = Authority(folder, "ours"), Authority(folder, "other")
    certificate, key = ours.sign("server", "DNS:localhost", "IP:127.0.0.1")
    options = {
        "bind": "127.0.0.1 127.0.0.2",
        "tls-port": str(free_port()),
        "tls-cert-file": str(certificate),
        "tls-key-file": str(key),
        "tls-ca-cert-file": str(ours.certificate),
        "tls-auth-clients": "no",
    }
    with PrivateRedis(find_redis(), tcp=True, options=options) as server:
        yield Place(server, ours, other, folder)


def ask(address: RedisAddress) -> Depth:
    queue = RedisQueue(address, None, "nfl", "test", 2**30, 3.0)
    try:
        return queue.depth()
    finally:
        queue.close()


def test_a_server_whose_authority_is_named_is_trusted(place: Place) -> None:
    address = place.address(ca=place.ours.certificate)
    address.check_files()
    assert ask(address) == Depth(0, 0, 0)
    assert ask(replace(address, host="127.0.0.1")) == Depth(0, 0, 0)


@pytest.mark.parametrize("named", ["other", "none"])
def test_a_server_of_another_authority_is_not_trusted(place: Place, named: str) -> None:
    address = place.address(ca=place.other.certificate) if named == "other" else place.address()
    with pytest.raises(Unavailable, match="certificate can't be trusted: self-signed") as error:
        ask(address)
    assert error.value.loud
    assert "?ca=/path" in error.value.hint


def test_a_certificate_for_another_host_is_not_trusted(place: Place) -> None:
    address = replace(place.address(ca=place.ours.certificate), host="127.0.0.2")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.2.*not valid") as error:
        ask(address)
    assert error.value.loud
    assert "the host" in error.value.hint


def test_a_server_that_asks_for_a_certificate_gets_ours(place: Place) -> None:
    with place.server.client() as client:
        client.config_set("tls-auth-clients", "yes")
        try:
            certificate, key = place.ours.sign("client")
            address = place.address(ca=place.ours.certificate, cert=certificate, key=key)
            address.check_files()
            assert ask(address) == Depth(0, 0, 0)
            with pytest.raises(Unavailable) as error:
                ask(place.address(ca=place.ours.certificate))
            assert "?cert=/path&key=/path" in error.value.hint
        finally:
            client.config_set("tls-auth-clients", "no")


def test_the_wrong_port_is_said_from_both_sides(place: Place) -> None:
    plain = RedisAddress(host="localhost", port=place.port)
    with pytest.raises(Unavailable) as error:
        ask(plain)
    assert "rediss://" in error.value.hint
    tls = replace(place.address(ca=place.ours.certificate), port=place.server.port)
    with pytest.raises(Unavailable) as error:
        ask(tls)
    assert "speaks TLS" in error.value.hint


def test_files_that_are_no_good_are_configuration_errors(place: Place) -> None:
    missing, nothing = place.folder / "missing.pem", place.folder / "nothing.pem"
    nothing.write_text("nothing")
    certificate, key = place.ours.sign("mine")
    _other, wrong_key = place.ours.sign("another")
    locked = place.folder / "locked.key"
    locked.write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    for address, said in (
        (place.address(ca=missing), f"?ca= can't be used: {missing}: No such file"),
        (place.address(ca=nothing), f"?ca= can't be used: {nothing}: "),
        (place.address(cert=missing, key=key), f"?cert= can't be used: {missing}: No such file"),
        (place.address(cert=certificate, key=wrong_key), f"?cert= can't be used: {certificate}"),
        (place.address(cert=certificate, key=locked), f"?cert= can't be used: {certificate}"),
    ):
        with pytest.raises(ConfigError) as error:
            address.check_files()
        assert said in error.value.message
        assert "PEM" in error.value.hint
        with pytest.raises(Unavailable):  # should the file go later
            ask(address)
    place.address().check_files()
    RedisAddress(path="/run/redis.sock").check_files()
