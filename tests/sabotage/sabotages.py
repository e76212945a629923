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
        "read: bytes that nobody asks for may be no UTF-8",
        "appliance/reading.py",
        "        refused = _not_utf8(lines)",
        "        refused: Errors = {}",
        "tests/test_reading.py::test_what_can_not_be_read_has_the_error_that_orjson_gives",
    ),
    Sabotage(
        "read: what can't be read is stored with nothing in its columns",
        "appliance/reading.py",
        "            refused |= {left[at]: error for at, error in rest.refused.items()}\n",
        "",
        "tests/test_reading.py::test_what_can_not_be_read_has_the_error_that_orjson_gives",
    ),
    Sabotage(
        "read: a record is refused because its neighbour can be read only the other way",
        "appliance/reading.py",
        "sorted({*deep, *reading.refused})",
        "[*range(len(lines))] if reading.refused else deep",
        "tests/test_reading.py::test_no_record_is_read_otherwise_for_its_neighbours",
    ),
    Sabotage(
        "idle: a subscriber that waits for frames doesn't hear of a stop",
        "appliance/queues/redis.py",
        "        if self._is_woken(wait_s):\n            self._unblock()",
        "        self._is_woken(wait_s)",
        "tests/contract/test_queue.py::"
        "test_what_wakes_a_take_ends_its_waiting_and_costs_neither_name_nor_frame",
    ),
    Sabotage(
        "idle: a pause reaches a subscriber only when it has waited long enough",
        "appliance/watchdog.py",
        '            child.slot.set("paused", paused)\n            child.nudge()',
        '            child.slot.set("paused", paused)',
        "tests/test_watchdog.py::test_pause_and_resume_reach_every_subscriber_also_later_ones",
    ),
    Sabotage(
        "idle: a look at the queue that is asked for comes when recovery wakes by itself",
        "appliance/watchdog.py",
        '        self._recovery.slot.set("look", self._looks)\n        self._recovery.nudge()',
        '        self._recovery.slot.set("look", self._looks)',
        "tests/test_watchdog.py::test_a_look_at_the_queue_is_asked_for_when_somebody_has_worked",
    ),
    Sabotage(
        "leave: children of a killed parent end connections that somebody holds for a successor",
        "appliance/process.py",
        "        return self._left or (self.drain and self.orphaned and self._kept())",
        "        return self._left",
        "tests/test_watchdog.py::test_a_keeper_outlives_a_parent_that_is_killed",
        basic=True,
    ),
    Sabotage(
        "leave: a source that leaves shows its senders an end",
        "appliance/sources/held.py",
        "        if self.fleeting:\n            self.stop(quick=True)\n        self._left",
        "        self.stop(quick=self.fleeting)\n        self._left",
        "tests/contract/test_source.py::test_who_leaves_is_gone_on_with_and_no_sender_notices",
    ),
    Sabotage(
        "keeper: nobody tells the older one that it may end",
        "appliance/keeper.py",
        "        self._door = Door(path)\n        legacy.taken()",
        "        self._door = Door(path)",
        "tests/test_keeper.py::test_the_next_keeper_says_it_once_it_can_be_found",
    ),
    Sabotage(
        "keeper: a connection is handed down before anybody else holds it",
        "appliance/acceptor.py",
        "        self._holder.keep(connection_name(self._name, cookie), connection)",
        "        pass",
        "tests/test_acceptor.py::test_it_is_held_before_the_collector_has_it",
    ),
    Sabotage(
        "keeper: a successor that dies before it holds anything takes all with it",
        "appliance/keeper.py",
        "                case x if x == GIVE:\n                    self._give(caller)",
        "                case x if x == GIVE:\n                    self._give(caller)\n"
        "                    self._over = True",
        "tests/test_keeper.py::test_it_goes_on_holding_until_somebody_else_does",
    ),
    Sabotage(
        "keeper: one that hangs counts as one that holds",
        "appliance/keeping.py",
        "        return self._asked_at is None or self._monotonic() - self._asked_at < SILENT_S",
        "        return True",
        "tests/test_keeper.py::test_one_that_hangs_counts_no_more_and_is_replaced",
    ),
    Sabotage(
        "ledger: what is stored isn't looked up, and no row claims a frame",
        "appliance/stores/ledger.py",
        '        self._insert("frames", [frame_row(batch) for batch in new])\n',
        "        pass\n",
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
        "tests/crash/test_spool.py::test_killed_at_every_step_while_redis_takes_nothing",
    ),
    Sabotage(
        "confirm: the queue forgets before the store has it",
        "appliance/subscriber.py",
        "            self._store_together(lease, batches)\n",
        "            self._queue.confirm(lease); self._store_together(lease, batches)\n",
        "tests/crash/test_pairs.py::test_killed_at_every_pair_of_steps",
    ),
    # ── a turn of the collector ─────────────────────────────────────────────────────────
    Sabotage(
        "order of a turn: the source forgets before anybody has the frame",
        "appliance/collector.py",
        "        kept = self._keep(self._frame_of(note, chunk))\n",
        "        frame = self._frame_of(note, chunk)\n"
        "        if chunk is not None:\n"
        "            self._source.discard(chunk)\n"
        '            self._checkpoint("discarded")\n'
        "        chunk, kept = None, self._keep(frame)\n",
        "tests/crash/test_pairs.py::test_killed_at_every_pair_of_steps",
    ),
    Sabotage(
        "order of a turn: the note says done before the source has forgotten",
        "appliance/collector.py",
        "            self._source.discard(chunk)\n"
        '            self._checkpoint("discarded")\n'
        "        self._finish_turn(note)\n",
        "            self._finish_turn(note)\n"
        "            self._source.discard(chunk)\n"
        "        else:\n"
        "            self._finish_turn(note)\n",
        "tests/crash/test_pairs.py::test_killed_at_every_pair_of_steps",
    ),
    Sabotage(
        "slots: a note is written over the one before",
        "appliance/note.py",
        "    return PAGE + (number % 2) * SLOT_BYTES\n",
        "    return PAGE\n",
        "tests/test_note.py::test_killed_while_a_note_is_written_the_one_before_counts",
    ),
    Sabotage(
        "boot: connections of another boot are taken for our own",
        "appliance/note.py",
        '    elif (identity["boot"], identity["kind"]) != (boot, kind):\n',
        "    elif False:\n",
        "tests/test_note.py::test_another_boot_or_kind_begins_a_later_run_where_the_last_one_ended",
    ),
    Sabotage(
        "note's fsync: a new note may be empty when the machine dies",
        "appliance/note.py",
        "        os.fsync(file.fileno())\n",
        "",
        "tests/test_note.py"
        "::test_a_new_file_is_on_the_disk_before_it_is_in_place_and_then_its_name_is",
    ),
    # ── the kernel keeps it ─────────────────────────────────────────────────────────────
    Sabotage(
        "mark: the kernel doesn't count what is left of a stretch",
        "appliance/sources/unix.py",
        "        connection.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, length)\n",
        "        pass\n",
        "tests/test_source_unix.py::test_the_rest_of_a_part_that_was_begun_is_discarded",
    ),
    Sabotage(
        "begun discard: a frame that is longer than ours is discarded in several calls",
        "appliance/sources/tcp.py",
        "        if length > len(scratch):  #",
        "        while length > len(scratch):\n"
        "            length -= connection.recv_into(scratch, len(scratch), socket.MSG_TRUNC)\n"
        "        if False:  #",
        "tests/test_source_tcp.py"
        "::test_a_frame_is_discarded_in_one_call_whatever_the_limits_are_now",
    ),
    Sabotage(
        "begun discard: what is left of a frame that was handed over stays",
        "appliance/sources/held.py",
        "                self._discard_one(self._connections[part.cookie], left[part.cookie],"
        " self._view)\n",
        "                pass\n",
        "tests/test_source_held.py::test_the_rest_of_a_half_discarded_frame_is_discarded",
    ),
    Sabotage(
        "noted length: a successor takes what has come meanwhile into the frame in doubt",
        "appliance/sources/held.py",
        "        view = memoryview(buffer)[start : start + part.length]\n",
        "        view = memoryview(bytearray(part.length + 1))\n",
        "tests/crash/test_pairs.py::test_killed_at_every_pair_of_steps",
    ),
    Sabotage(
        "position: what was discarded isn't counted, where the kernel isn't asked",
        "appliance/sources/held.py",
        "            connection.position += length\n",
        "            pass\n",
        "tests/test_source_held.py::test_where_it_stands_is_known_to_the_successor_without_asking",
    ),
    Sabotage(
        "beginnings: what was moved into a file is not noted as pending",
        "appliance/sources/beginnings.py",
        "            _write_all(fd, self._head(stretch), 0)\n",
        "",
        "tests/crash/test_pairs.py::test_beginnings_move_and_nothing_is_lost_whoever_is_killed",
    ),
    # ── spool ───────────────────────────────────────────────────────────────────────────
    Sabotage(
        "replay: the spool forgets before the queue has it",
        "appliance/replay.py",
        "            answer = self._push(frame)\n",
        "            self._spool.forget(frame)\n"
        "            self._spool.forget = lambda _frame: None\n"
        "            answer = self._push(frame)\n"
        "            del self._spool.forget\n",
        "tests/crash/test_spool.py::test_killed_at_every_step_while_redis_takes_nothing",
    ),
    Sabotage(
        "spool: the newest frame is appended twice",
        "appliance/spool.py",
        "        if newest and newest.synced and newest.name and newest.name == name_of(line):\n",
        "        if False:\n",
        "tests/test_spool.py::test_the_newest_frame_again_changes_nothing_in_this_life_and_the_next",
    ),
    Sabotage(
        "spool: what a predecessor wrote is believed to be on the disk",
        "appliance/spool.py",
        "synced = not at_open or self._try(segments.write_again, self._files, path, entry)",
        "synced = True",
        "tests/test_spool.py::test_a_frame_that_a_predecessor_may_not_have_synced_is_written_again",
    ),
    Sabotage(
        "spool: the name of a new segment isn't synced",
        "appliance/segments.py",
        "        if self.end == 0:\n            sync_directory(self._files, self._directory)\n",
        "",
        "tests/test_spool.py::test_an_append_syncs_the_data_then_the_name_before_it_returns",
    ),
    Sabotage(
        "spool: a segment that a write failed on is appended to again",
        "appliance/spool.py",
        "            self._give_up_tail()\n",
        "            pass\n",
        "tests/test_spool.py::test_a_segment_whose_sync_failed_takes_nothing_more",
    ),
    Sabotage(
        "spool: a flipped bit goes unnoticed",
        "appliance/segments.py",
        "            and zlib.crc32(item) == self.crc\n"
        "            and _digest(item) == self.digest\n",
        "",
        "tests/test_spool_damage.py::test_every_bit_of_a_segment_turned_once",
    ),
    Sabotage(
        "adoption: the spool isn't dropped when the queue has gone on",
        "appliance/collector.py",
        "        self._spool.drop()\n",
        "        pass\n",
        "tests/test_collector_spool.py"
        "::test_a_queue_that_has_gone_on_is_followed_note_first_then_spool_then_source",
    ),
    # ── queue ───────────────────────────────────────────────────────────────────────────
    Sabotage(
        "cursor: a frame that begins elsewhere is taken",
        "appliance/queues/redis.py",
        "if compare == '1' and known[3] and '=' .. known[3] ~= before then return 'elsewhere' end",
        "",
        "tests/contract/test_queue.py::test_a_frame_that_starts_elsewhere_is_refused_unless_forced"
        "[redis]",
    ),
    Sabotage(
        "sweep's order: who came between the two looks counts as dead",
        "appliance/queues/redis.py",
        "            busy, alive = self._scan_busy(), self._owners_alive()\n            orphans",
        "            alive = self._owners_alive()\n"
        "            busy = self._scan_busy()\n            orphans",
        "tests/contract/test_queue.py::test_a_take_between_scan_and_client_list_is_left_alone",
    ),
    Sabotage(
        "living owners: their leases are given back, too",
        "appliance/queues/redis.py",
        "                if owner not in alive",
        "                if True",
        "tests/contract/test_queue.py::test_the_sweep_gives_back_what_the_dead_held_and_only_that"
        "[redis]",
    ),
    Sabotage(
        "errors: a connection is used again behind one",
        "appliance/queues/redis.py",
        "            if not finished:\n                self.close()\n",
        "            pass\n",
        "tests/contract/test_queue.py::test_an_exception_of_the_caller_drops_the_connection_too",
    ),
    Sabotage(
        "lease: it is confirmed under another name",
        "appliance/queues/redis.py",
        "        if owner != self._owner:\n",
        "        if False:\n",
        "tests/contract/test_queue.py::test_a_lease_needs_the_connection_that_took_it[redis]",
    ),
    Sabotage(
        "lease: it is confirmed before all of it was read",
        "appliance/queues/redis.py",
        "        assert not self._unread,",
        "        assert True,",
        "tests/contract/test_queue.py"
        "::test_a_lease_is_confirmed_only_when_all_of_it_was_seen[redis]",
    ),
    Sabotage(
        "lease: what is set aside moves what is read behind it",
        "appliance/queues/redis.py",
        "self._keys.busy(owner), -self._unread, last)",
        "self._keys.busy(owner), sum(steps[::2]) - self._unread,"
        " sum(steps[::2]) - self._unread + count - 1)",
        "tests/contract/test_queue.py"
        "::test_what_is_set_aside_while_a_lease_is_read_moves_nothing[redis]",
    ),
    Sabotage(
        "order: what is given back is turned round",
        "appliance/queues/redis.py",
        "local frames = 0\nwhile redis.call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'LEFT') do",
        "local frames = 0\nwhile redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'LEFT') do",
        "tests/contract/test_queue.py"
        "::test_what_is_given_back_stands_in_front_in_its_old_order[redis]",
    ),
    Sabotage(
        "one collector: a predecessor's connection stays open",
        "appliance/queues/redis.py",
        '                    self._command("CLIENT", "KILL", "ID", rival.number)\n',
        "                    others = []\n",
        "tests/contract/test_queue.py::test_a_predecessor_of_the_same_instance_is_ended[redis]",
    ),
    Sabotage(
        "one store: frames of one queue go into two",
        "appliance/queues/redis.py",
        "        if known != store:\n",
        "        if False:\n",
        "tests/contract/test_queue.py::test_a_queue_belongs_to_the_first_store[redis]",
    ),
    # ── ledger ──────────────────────────────────────────────────────────────────────────
    Sabotage(
        "gap: a frame that comes after all counts as stored",
        "appliance/stores/folding.py",
        "(number <= up_to and not in_a_gap)",
        "number <= up_to",
        "tests/contract/test_gaps.py::test_what_comes_after_all_fills_its_gap[sqlite]",
    ),
    Sabotage(
        "gap: what came after all stays in it",
        "appliance/stores/folding.py",
        "        found = self._cut_gaps(account, folded)\n",
        "        found = 0\n",
        "tests/contract/test_gaps.py::test_what_comes_after_all_fills_its_gap[sqlite]",
    ),
    Sabotage(
        "fold: rows below up_to are forgotten, uncounted, while they still lie in a gap",
        "appliance/stores/folding.py",
        "            self._forgotten(run, first, last),\n            self._moved(run, last",
        "            self._forgotten(run, 0, last),\n            self._moved(run, last",
        "tests/contract/test_gaps.py::test_folding_meets_others_at_every_point[sqlite-store]",
    ),
    Sabotage(
        "fold: nobody looks whether another has folded since",
        "appliance/stores/folding.py",
        "        if int(up_to_now) != first - 1:\n",
        "        if False:\n",
        "tests/contract/test_gaps.py::test_folding_meets_others_at_every_point[sqlite-fold]",
    ),
    Sabotage(
        "fold: a frame that follows up_to isn't looked for among the gaps",
        "appliance/stores/folding.py",
        "if frame and not gaps and frame.number",
        "if frame and frame.number",
        "tests/test_ledger.py::test_whatever_comes_in_whatever_order",
    ),
    Sabotage(
        "fold: all of it in one step",
        "appliance/stores/folding.py",
        "min(frames_max - folded, STEP_FRAMES_MAX)",
        "frames_max - folded",
        "tests/test_ledger.py::test_a_fold_goes_in_steps",
    ),
    Sabotage(
        "gap: nobody looks again before a hole becomes one",
        "appliance/stores/folding.py",
        "        found = holes_of(account, account.up_to)\n",
        '        found = [Hole(run, "", *span, "") for span in spans]\n',
        "tests/contract/test_gaps.py::test_what_came_meanwhile_is_no_gap[sqlite]",
    ),
    Sabotage(
        "gap: frames that wait in the queue are missing",
        "appliance/subscriber.py",
        "holes.not_queued(old, self._queue.headers(LOOK_FRAMES_MAX))",
        "old",
        "tests/test_subscriber.py::test_what_waits_or_is_in_somebodys_hands_is_not_missing",
    ),
    Sabotage(
        "look: nobody notices that the queue has forgotten",
        "appliance/collector.py",
        "not is_behind(self._line.state, self._end())",
        "True",
        "tests/crash/test_spool.py::test_what_redis_forgot_is_a_hole_of_exactly_that_size",
    ),
    Sabotage(
        "run's end: what is missing behind its last frame is unknown",
        "appliance/collector.py",
        "            previous=self._notes.previous,\n",
        "            previous=None,\n",
        "tests/test_collector.py::test_the_end_of_the_run_before_is_kept_over_kills",
    ),
    # ── records, limits, deaths ─────────────────────────────────────────────────────────
    Sabotage(
        "position: what the kernel says of a connection is read once",
        "appliance/sources/tcp.py",
        "            if again == (state, received):\n                break\n",
        "            break\n",
        "tests/test_source_tcp.py::test_bytes_that_arrive_while_it_is_looked_at_move_no_position",
    ),
    Sabotage(
        "kept connections: the parent keeps none of its own",
        "appliance/acceptor.py",
        "        self._connections[cookie] = connection\n",
        "",
        "tests/test_acceptor.py::test_the_parent_keeps_what_a_killed_collector_had",
    ),
    Sabotage(
        "one bad record: its good neighbours go with it",
        "appliance/isolate.py",
        "                size, bad_before = (end - lo) // 2, end\n",
        "                refused |= dict.fromkeys(range(lo, end), reason)\n"
        "                lo, size, bad_before = end, 1, end\n",
        "tests/contract/test_store.py::test_a_rejected_row_costs_one_record[sqlite]",
    ),
    Sabotage(
        "savepoint: what was written before a refusal stays",
        "appliance/stores/ledger.py",
        '                self._query("ROLLBACK TO SAVEPOINT part")\n',
        "",
        "tests/contract/test_store.py::test_a_rejected_row_costs_one_record[sqlite]",
    ),
    Sabotage(
        "at once: what came before a refusal stays",
        "appliance/stores/ledger.py",
        '        except Rejected:\n            self._query("ROLLBACK")\n            return None\n',
        "        except Rejected:\n            return None\n",
        "tests/contract/test_store.py::test_a_rejected_row_costs_one_record[sqlite]",
    ),
    Sabotage(
        "at once: rows in bulk go before the ledger's, which were held back",
        "appliance/stores/mysql.py",
        "self._held_back is None and bool(",
        "bool(",
        "tests/contract/test_store.py::test_the_rows_of_a_small_lease_are_text_behind_their_ledger_row",
    ),
    Sabotage(
        "fold: it goes over a hole",
        "appliance/stores/folding.py",
        "        if frame is None or frame > up_to + 1:\n",
        "        if frame is None:\n",
        "tests/contract/test_store.py"
        "::test_fold_stops_at_a_hole_and_goes_on_when_it_is_filled[sqlite]",
    ),
    Sabotage(
        "queue's limit: it takes whatever comes",
        "appliance/queues/redis.py",
        "if tonumber(redis.call('GET', KEYS[2]) or 0) >= tonumber(ARGV[9]) then return 'full' end",
        "",
        "tests/contract/test_queue.py"
        "::test_a_full_queue_takes_nothing_more_until_something_is_confirmed[redis]",
    ),
    Sabotage(
        "spool's limit: it takes whatever comes",
        "appliance/spool.py",
        "        if self._used() + length > self._bytes_max:\n",
        "        if False:\n",
        "tests/test_spool.py::test_full",
    ),
    Sabotage(
        "a record that kills: its frame never goes alone",
        "appliance/subscriber.py",
        "            if deaths and (verdict := poison.judge(deaths)).alone:\n",
        "            if False and (verdict := poison.judge(deaths)).alone:\n",
        "tests/test_subscriber.py"
        "::test_after_three_deaths_a_frame_goes_alone_behind_its_neighbours",
    ),
    # ── errors ──────────────────────────────────────────────────────────────────────────
    Sabotage(
        "refusal: a spool that takes nothing is believed to have it",
        "appliance/collector.py",
        "            self._room.goes_on(ROOM if self._source.patient else ROOM_OR_DROP, error)\n"
        "            return False\n",
        "            return True\n",
        "tests/crash/test_faults.py::test_an_error_at_every_call[StruckTcp]",
    ),
    Sabotage(
        "session: a transaction goes on behind an error",
        "appliance/stores/tables.py",
        "            if not done:\n                self.close()\n",
        "            pass\n",
        "tests/crash/test_faults.py::test_the_ledger_is_the_same_whatever_statement_fails",
    ),
    Sabotage(
        "move: a beginning counts as kept before the kernel has forgotten it",
        "appliance/sources/held.py",
        "        self._discard_one(connection, left, scratch)\n        beginning.keep()\n",
        "        beginning.keep()\n        self._discard_one(connection, left, scratch)\n",
        "tests/crash/test_faults.py::test_an_error_at_every_call[StruckUnix]",
    ),
    Sabotage(
        "systemd: its store is given nothing",
        "appliance/systemd.py",
        '        self._channel.say(name, f"FDSTORE=1\\nFDNAME={name}\\nFDPOLL=0", thing)\n',
        "",
        "tests/system/test_systemd.py::test_connections_live_through_kills_and_restarts",
    ),
    Sabotage(
        "systemd: its store drops what has hung up",
        "appliance/systemd.py",
        '\\nFDPOLL=0"',
        '"',
        "tests/system/test_systemd.py::test_a_stop_is_said_to_senders_who_then_find_nobody",
    ),
    Sabotage(
        "systemd: a stop leaves its sockets in the store",
        "appliance/systemd.py",
        '        self._channel.say(name, f"FDSTOREREMOVE=1\\nFDNAME={name}")\n',
        "",
        "tests/system/test_systemd.py::test_connections_live_through_kills_and_restarts",
    ),
    Sabotage(
        "systemd: a restart is taken for a stop",
        "appliance/systemd.py",
        "        self._restarts_until_ns = self._clock_ns() + int(ANNOUNCED_S * 1e9)\n",
        "        pass\n",
        "tests/system/test_systemd.py::test_connections_live_through_kills_and_restarts",
    ),
    Sabotage(
        "systemd: TERM is obeyed before what announces it",
        "appliance/watchdog.py",
        "key=lambda one: one.signal != signals.URGENT",
        "key=lambda one: one.signal",
        "tests/system/test_systemd.py::test_connections_live_through_kills_and_restarts",
    ),
    Sabotage(
        "systemd: a stop is taken for a restart",
        "appliance/systemd.py",
        'or "restart" in (self._job() or "")',
        "or True",
        "tests/system/test_systemd.py::test_a_stop_is_said_to_senders_who_then_find_nobody",
    ),
    Sabotage(
        "systemd: ready before it is true",
        "appliance/herald.py",
        '        if report["ready"]:',
        "        if True:",
        "tests/system/test_systemd.py::test_ready_waits_for_the_store_and_asks_for_time",
    ),
    Sabotage(
        "systemd: nobody waits until an address is free",
        "appliance/systemd.py",
        "            self._channel.barrier(SETTLE_S)\n",
        "            pass\n",
        "tests/test_systemd.py::test_what_is_kept_is_our_socket[path]",
    ),
    Sabotage(
        "systemd: a socket that no source listens on is kept in silence",
        "appliance/app.py",
        "            self._refuse_strangers()\n",
        "",
        "tests/system/test_systemd.py::test_a_socket_that_no_source_listens_on_is_named",
    ),
    Sabotage(
        "systemd: a socket unit's socket goes into the store, too",
        "appliance/systemd.py",
        " or not held:",
        ":",
        "tests/system/test_systemd.py::test_a_socket_units_listener_is_used_and_left_to_it[any.socket]",
    ),
    Sabotage(
        "systemd: who waits at an old address is sent away",
        "appliance/app.py",
        '            self._take_waiting(name.partition(".")[0], one)\n',
        "",
        "tests/system/test_systemd.py::test_who_waits_at_an_address_that_is_given_up_is_let_in",
    ),
    Sabotage(
        "systemd: it never hears that we live",
        "appliance/systemd.py",
        "now_ns >= self._alive_at_ns:",
        "False:",
        "tests/test_systemd.py::test_a_sign_of_life_comes_twice_in_its_time[path]",
    ),
    Sabotage(
        "systemd: what it doesn't take is forgotten",
        "appliance/systemd.py",
        "            if not self._is_taken(text, thing):\n                return\n",
        "            self._is_taken(text, thing)\n",
        "tests/test_systemd.py::test_what_isnt_taken_waits_the_newest_of_each_kind",
    ),
    Sabotage(
        "systemd: what is meant for another process is taken",
        "appliance/systemd.py",
        '    if environ.get("LISTEN_PID") != f"{pid}":\n        return\n',
        "",
        "tests/test_systemd.py::test_what_was_handed_over_is_sorted_by_its_names",
    ),
    Sabotage(
        "log: a line that can't be written is neither counted nor said",
        "appliance/destinations.py",
        "            self.put(record)\n        except OSError as error:\n"
        "            self._lose(error)\n",
        "            self.put(record)\n        except OSError:\n            pass\n",
        "tests/test_destinations.py::test_a_full_disk_stops_nobody_and_is_counted_and_said",
    ),
    Sabotage(
        "formats: a frame of a later version is taken for one of ours",
        "appliance/frame.py",
        'if fields["format"] != FORMAT or fields["layout"]',
        'if fields["layout"]',
        "tests/test_formats.py::test_a_frame_of_a_later_format_is_refused_by_its_number[0.1.0]",
    ),
    Sabotage(
        "ahead: a successor begins to read where one was killed amid a look ahead",
        "appliance/sources/held.py",
        "        self._kernel.adopt(connection)\n",
        "",
        "tests/crash/test_ahead.py::test_killed_at_every_step_and_again_soon_behind",
        basic=True,
    ),
    Sabotage(
        "ahead: what was got ready is used wherever the connection stands",
        "appliance/sources/held.py",
        "    return at == (ahead.cookie, ahead.position) and connection.wake_at == 1",
        "    return at[0] == ahead.cookie",
        "tests/test_source_ahead.py"
        "::test_it_is_thrown_away_where_a_look_would_show_something_else[it_closed]",
    ),
    Sabotage(
        "ahead: less than a frame is taken for a whole one",
        "appliance/sources/held.py",
        "view) == size:",
        "view):",
        "tests/test_source_ahead.py::test_an_urgent_byte_stays_where_it_was_sent",
    ),
    Sabotage(
        "bulk: a bulk has any number of rows, and the server leaves keys out",
        "appliance/stores/bulk.py",
        "COUNTS = tuple(2**step - 1 for",
        "COUNTS = tuple(2**step for",
        "tests/test_bulk.py::test_automatic_keys_have_no_holes",
    ),
    Sabotage(
        "bulk: what was refused among others is given in bulk again",
        "appliance/stores/mysql.py",
        "self._insert_part(at, at + 1, in_bulk=False)",
        "self._insert_part(at, at + 1, in_bulk=True)",
        "tests/test_bulk.py::test_a_column_gets_what_it_gets_by_text[UUID]",
    ),
    Sabotage(
        "bulk: a row is refused because its text is too long for a packet",
        "appliance/stores/mysql.py",
        "if error.code != TOO_LONG or",
        "if True or",
        "tests/test_bulk.py::test_a_neighbour_is_refused_and_a_row_is_stored_whose_text_is_too_long",
    ),
    Sabotage(
        "alone: of a frame that waits for its turn a view is kept, which the next one overwrites",
        "appliance/subscriber.py",
        "alone.append((frame.kept(), verdict))",
        "alone.append((frame, verdict))",
        "tests/test_subscriber.py::test_after_three_deaths_a_frame_goes_alone_behind_its_neighbours",
    ),
    Sabotage(
        "take: a large frame that was waited for is a byte short",
        "appliance/queues/redis.py",
        "return self._received(head[0], size, ",
        "return self._received(head[0], size - 1, ",
        "tests/contract/test_queue.py::test_a_frame_of_any_size_is_waited_for",
    ),
    Sabotage(
        "bulk: what is left of one is a single text, however long",
        "appliance/stores/mysql.py",
        "_Statements(self._insert, [*self._blocks_from(lo, hi)]).insert_all()",
        "_Statements(self._insert, [*self._blocks_from(lo, hi)]).insert(0, hi - lo)",
        "tests/test_bulk.py::test_what_is_left_of_a_bulk_is_never_longer_than_a_packet_either",
    ),
    Sabotage(
        "bulk: nobody counts how many rows the server took",
        "appliance/stores/mysql.py",
        "if changed not in (None, hi - lo) and not self.tail:",
        "if False:",
        "tests/test_bulk.py::test_where_a_server_leaves_out_rows_without_a_word_they_go_as_text",
    ),
    Sabotage(
        "bulk: a server whose triggers take values of it gets one",
        "appliance/stores/bulk.py",
        " and _triggers_work(greeting[1:end])",
        "",
        "tests/test_bulk.py::test_servers_whose_triggers_take_values_of_a_bulk_get_none",
    ),
)
