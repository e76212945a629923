"""What a reload makes of a file that was read again: another App beside the one that runs.

Until `take_over` the running one is untouched, and what was opened for the other is closed again
by `close`. Addresses that the running instance listens at already are handed on as duplicates,
with all who wait there: so a source may change its name, two may exchange their addresses, and
whoever gives an address away closes only its own descriptor.
"""

import socket
from collections.abc import Callable

from appliance import reload
from appliance.app import App, no_beat
from appliance.child import Child, ChildSpec
from appliance.errors import AddressError, StreamDaemonError, Unavailable
from appliance.reloading import Candidate
from appliance.settings import Config, SocketSource
from appliance.sources.listening import Given, Listening, listen


class Renewer:
    """Reads the configuration again, as often as it is asked to (the watchdog's `read`)."""

    def __init__(
        self, app: App, read: Callable[[], Config], set_up_log: Callable[[Config], None]
    ) -> None:
        self.app = app
        self.set_up_log = set_up_log
        self._read = read

    def __call__(self) -> Candidate:
        """The file as it is now.

        Raises:
            ConfigError: it isn't valid, a secret isn't there, or it takes a restart.
        """
        return Renewal(self, self.app.changed_to(self._read()))


class Renewal:
    """One configuration that may take the place of another (protocol: reloading.Candidate)."""

    def __init__(self, renewer: Renewer, new: App) -> None:
        old = renewer.app
        before, after = old.config, new.config
        self._renewer = renewer
        self._old, self._new = old, new
        self._opened: dict[str, Listening] = {}  # by the source that will listen there
        self._duplicates: dict[socket.socket, str] = {}  # with the source that listens there now
        self._moved: set[str] = set()  # sources whose address goes on, under whatever name
        self.plan = reload.plan(before, after, old.changed_secrets(new), old.unheld())
        self.drain_s = after.drain_s

    @property
    def subscribers(self) -> int:
        """How many are wanted."""
        return self._new.subscriber_count()

    def look(self) -> None:
        """Raise what keeps queue or store from ever serving; who is only away is waited for."""
        try:
            if self.plan.asks_queue:
                self._new.look_at_queue(no_beat, True)
            if self.plan.asks_store:
                self._new.look_at_store(no_beat)
        except Unavailable as error:
            if error.loud:
                raise

    # ── addresses ───────────────────────────────────────────────────────────────────────

    def open(self) -> None:
        """Listen at what is new, and have duplicates of what goes on.

        Raises:
            StreamDaemonError: an address can't be listened on, or there is no room.
        """
        self._new.make_room()
        left: list[socket.socket] = []
        given: Given = []
        try:
            self._duplicate(left, given)
            for name in sorted(self._to_open(), key=self._is_listened_at):
                source = self._new.config.sources[name]
                assert isinstance(source, SocketSource)
                self._opened[name] = listen(source, left, name, given)
        except OSError as error:
            self.close()
            raise AddressError(
                f"listening sockets can't be duplicated: {error.strerror}", "reload once more"
            ) from error
        except StreamDaemonError:
            self.close()
            raise
        finally:
            unused = [*left, *(one for _unit, one in given)]
            for one in unused:
                one.close()
        self._moved = {name for one, name in self._duplicates.items() if one not in unused}

    def _to_open(self) -> list[str]:
        names = (*self.plan.listeners, *self.plan.added)
        return [name for name in names if isinstance(self._new.config.sources[name], SocketSource)]

    def _is_listened_at(self, name: str) -> bool:
        """Whether it is an address of ours already; what may well fail goes first."""
        wanted = getattr(self._new.config.sources[name], "listen", None)
        return wanted in [getattr(s, "listen", None) for s in self._old.config.sources.values()]

    def _duplicate(self, left: list[socket.socket], given: Given) -> None:
        """Duplicates of what may go on: of our own, and of those of .socket units."""
        for name in (*self.plan.listeners, *self.plan.removed):
            acceptor = self._old.acceptor_of(name)
            for listener in acceptor.listeners if acceptor else ():
                one = listener.dup()
                self._duplicates[one] = name
                unit = self._old.unit_of(one)
                if unit is None:
                    left.append(one)
                else:
                    given.append((unit, one))

    def close(self) -> None:
        """Close what was opened; the files of new sockets go with them."""
        for own in self._opened.values():
            if not any(one in self._duplicates for one in own.sockets):
                own.forget()
        self.close_in_child()
        self._opened.clear()

    def close_in_child(self) -> None:
        """Close this process's descriptors of what was opened."""
        for own in self._opened.values():
            for one in own.sockets:
                one.close()

    def relisten(self, removed: list[Child]) -> None:
        """Listen where it says. All names are given back first: holders know each socket once."""
        changed = {n: a for n in self.plan.listeners if (a := self._old.acceptor_of(n))}
        for child in removed:
            name, acceptor = child.spec.name, child.spec.acceptor
            if acceptor:
                acceptor.stop_listening(take=child.began, moved=name in self._moved)
        for name, acceptor in changed.items():
            acceptor.stop_listening(moved=name in self._moved)
        for name, own in self._opened.items():
            self._new.listen_at(name, own)
        self._opened.clear()

    # ── children ────────────────────────────────────────────────────────────────────────

    def take_over(self) -> None:
        """It is the configuration from now on."""
        self._renewer.app = self._new
        self._new.take_over()
        if self._new.config.log != self._old.config.log:
            self._renewer.set_up_log(self._new.config)

    def collector(self, name: str) -> ChildSpec:
        """The collector of a source."""
        return self._new.collector_spec(name)

    def subscriber(self, number: str) -> ChildSpec:
        """The subscriber with this number."""
        return self._new.subscriber_spec(number)

    def recovery(self, last: bool) -> ChildSpec:
        """Recovery, while collectors of removed sources may live, and afterwards (`last`)."""
        return self._new.recovery_spec(() if last else self.plan.removed)
