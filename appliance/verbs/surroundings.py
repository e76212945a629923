"""Who has started us, what came along with that, and who holds our sockets from now on."""

import os
from dataclasses import dataclass, field

from appliance import process, systemd
from appliance.contracts import Holder, NoHolder, NoManager, ServiceManager
from appliance.fdnames import Inherited

START_SPARE_S = 60.0  # beyond drain_s, which leftovers of a killed parent may take


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an instance finds at its start.

    Attributes:
        inherited: sockets that were held for it.
        holder: who holds its sockets.
        manager: who wants to know how it is.
    """

    inherited: Inherited = field(default_factory=Inherited)
    holder: Holder = field(default_factory=NoHolder)
    manager: ServiceManager = field(default_factory=NoManager)


def look(drain_s: float) -> Surroundings:
    """Take over what systemd gives, if it is systemd; nobody whom we start gets it again.

    Once, before anything is opened that is to stay.
    """
    given = systemd.given(os.environ, os.getpid())
    inherited, held = systemd.inherited(os.environ, os.getpid())
    process.forget_variables(systemd.VARIABLES)
    if not given.notify:
        return Surroundings(inherited)
    channel = systemd.Channel(given.notify)
    manager = systemd.Manager(channel, given.watchdog_s, systemd.own_job)
    manager.starting(drain_s + START_SPARE_S)
    return Surroundings(
        inherited, holder_of(systemd.Store(channel, given.store_max, held)), manager
    )


def holder_of(store: systemd.Store) -> Holder:
    """systemd's store where it keeps anything for this unit; else nobody: a keeper ends with us."""
    return store if store.holds else NoHolder()
