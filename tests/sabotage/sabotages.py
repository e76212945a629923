"""What is switched off, and which test is meant for it.

Each replaces a piece of one file, which has to be there exactly once: a sabotage whose place has
changed says so instead of proving nothing.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sabotage:
    """One line of the program made harmless, and the test that has to notice.

    `basic`: CI tries it, too.
    """

    name: str
    file: str
    old: str
    new: str
    test: str
    basic: bool = False


SABOTAGES = (
    Sabotage(
        "ledger: what is stored isn't looked up, and no row claims a frame",
        "appliance/stores/ledger.py",
        "        if not self._claim(new):",
        "        if False:",
        "tests/contract/test_store.py::test_the_same_again_is_skipped[sqlite]",
        basic=True,
    ),
    Sabotage(
        "number check: the queue takes the same number again",
        "appliance/queues/redis.py",
        "if known[1] == run and known[2] == number then return 'have it' end",
        "",
        "tests/contract/test_queue.py::test_a_push_sent_again_is_recognised[redis]",
        basic=True,
    ),
    Sabotage(
        "note: a successor doesn't look whether a frame was in hand",
        "appliance/collector.py",
        "        in_doubt = self._notes.in_doubt\n",
        "        in_doubt = False\n",
        "tests/crash/test_pairs.py::test_a_file_is_read_once_whoever_is_killed",
        basic=True,
    ),
    Sabotage(
        "fold's lock: a run is folded while others store frames of it",
        "appliance/stores/mysql.py",
        '    EXCLUSIVE = " FOR UPDATE"',
        '    EXCLUSIVE = ""',
        "tests/contract/test_store.py::test_two_holders_and_their_folds_meet_at_every_point[mariadb]",
        basic=True,
    ),
    Sabotage(
        "fsync: the spool doesn't wait for the disk",
        "appliance/segments.py",
        "        self._files.fsync(self._fd)\n",
        "",
        "tests/test_spool.py::test_an_append_syncs_the_data_then_the_name_before_it_returns",
        basic=True,
    ),
    Sabotage(
        "give-back: what the dead held stays where it is",
        "appliance/queues/redis.py",
        "                if owner not in alive",
        "                if owner not in alive and False",
        "tests/contract/test_queue.py::test_the_sweep_gives_back_what_the_dead_held_and_only_that"
        "[redis]",
        basic=True,
    ),
    Sabotage(
        "peek: a collector takes what it shall only look at",
        "appliance/sources/tcp.py",
        "socket.MSG_PEEK",
        "0",
        "tests/crash/test_pairs.py::test_killed_at_every_pair_of_steps",
        basic=True,
    ),
    Sabotage(
        "owner per connection: a new connection goes on under the old name",
        "appliance/queues/redis.py",
        'owner = f"{self._name}-{self._role}-{self._token()}"',
        'owner = f"{self._name}-{self._role}-{id(self)}"',
        "tests/contract/test_queue.py::test_a_frame_served_to_a_dead_owner_is_not_lost[redis]",
        basic=True,
    ),
    Sabotage(
        "shared lock: a frame is stored while its run is folded",
        "appliance/stores/mysql.py",
        '    SHARED = " LOCK IN SHARE MODE"',
        '    SHARED = ""',
        "tests/contract/test_store.py::test_two_holders_and_their_folds_meet_at_every_point[mariadb]",
    ),
    Sabotage(
        "spool: a frame goes past those that wait in it",
        "appliance/collector.py",
        "            if not self._spool.size and self._may_ask:\n",
        "            if self._may_ask:\n",
        "tests/crash/test_spool.py",
    ),
    Sabotage(
        "confirm: the queue forgets before the store has it",
        "appliance/subscriber.py",
        "            self._store_together(lease, batches)\n",
        "            self._queue.confirm(lease); self._store_together(lease, batches)\n",
        "tests/crash/test_pairs.py::test_killed_at_every_pair_of_steps",
    ),
)
