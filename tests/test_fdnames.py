"""Names of sockets that others hold for us, and what comes back under them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.fdnames import Inherited, connection_name, listener_name

SOURCES = st.from_regex(r"[a-z][a-z0-9_]{0,30}", fullmatch=True)


@given(SOURCES, st.integers(0, 2**64 - 1), st.integers(0, 99))
def test_what_went_out_comes_back(source: str, cookie: int, number: int) -> None:
    inherited = Inherited()
    inherited.add(connection_name(source, cookie), "a connection")
    inherited.add(listener_name(source, number), "a listener")
    assert inherited.connections == {source: {cookie: "a connection"}}
    assert inherited.listeners == ["a listener"]
    assert (inherited.others, inherited.size) == ([], 2)


@given(SOURCES, st.integers(0, 2**64 - 1))
def test_systemd_takes_the_names(source: str, cookie: int) -> None:
    for name in (connection_name(source, cookie), listener_name(source, 1)):
        assert len(name) <= 255
        assert name.isascii()
        assert name.isprintable()
        assert ":" not in name


@pytest.mark.parametrize("name", ["unknown", "", "stream-daemon.socket", "a.b.1", "a.", "A.1"])
def test_other_names_are_others(name: str) -> None:
    inherited = Inherited()
    inherited.add(name, "a socket of a unit")
    assert inherited.others == [(name, "a socket of a unit")]
    assert not inherited.connections
    assert not inherited.listeners
