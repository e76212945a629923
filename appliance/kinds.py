"""What stands for each type of source: its kernel, how it is looked at, where it connects to.

The classes themselves are put together in app.py.
"""

from collections.abc import Mapping
from functools import partial

from appliance.contracts import Remark
from appliance.counters import Slot
from appliance.settings import (
    AnySource,
    FileSource,
    SocketSource,
    StdinSource,
    TcpSource,
    UnixSource,
)
from appliance.sources import dialled, tcp, unix
from appliance.sources import file as file_source
from appliance.sources.kernel import Kernel

KERNELS: Mapping[str, Kernel] = {"tcp": tcp.TcpKernel(), "unix": unix.UnixKernel()}
CONNECTED = {"tcp": tcp.connected, "unix": unix.connected}


def look_at_source(source: AnySource, runs: bool) -> list[Remark]:
    """Whether it will serve, for `check`; `runs`: an instance runs, which has its address.

    Raises:
        StreamDaemonError: it will not.
    """
    if isinstance(source, FileSource):
        return [file_source.look(source.path)]
    if isinstance(source, StdinSource):
        return [Remark("it reads standard input")]
    if runs:
        return [Remark(f"the running instance has {source.listen or source.connect}")]
    if source.connect is not None:
        return [dialled.look(source.connect, partial(targets, source))]
    assert source.listen is not None, "one of the two"
    if isinstance(source, UnixSource):
        return [unix.look(source.listen, source.owner)]
    for listener in tcp.listen(source.listen):
        listener.close()
    return [Remark(f"{source.listen} is free to listen on")]


def connections_max(source: AnySource) -> int:
    """Connections that the parent may hold for this source."""
    if not isinstance(source, SocketSource):
        return 0
    return source.connections_max if source.connect is None else 1


def find(source: SocketSource, slot: Slot) -> list[dialled.Target]:
    """Where to connect to; a name server that is away lets one wait for long."""
    with slot.slow_call():
        return targets(source)


def targets(source: SocketSource) -> list[dialled.Target]:
    """Where to connect to."""
    assert source.connect is not None
    if isinstance(source, TcpSource):
        return tcp.find(source.connect)
    return unix.find(source.connect)


def type_of(source: AnySource) -> str:
    """Its type, as users write it."""
    return str(source.__struct_config__.tag)
