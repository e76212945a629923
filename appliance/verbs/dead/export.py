"""`dead export`: the records of dead letters, so that they can be sent in again."""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import islice

from appliance.stores.letters import Letter, Letters, Wanted
from appliance.verbs.dead import asked, words


def export(args: argparse.Namespace, letters: Letters) -> None:
    """Write the records to stdout, oldest first, or a JSON object for each."""
    wanted = asked.wanted(args, letters)
    asked.say_left_out(letters, wanted)
    for letter in islice(_open_letters(letters, wanted), args.limit):
        sys.stdout.buffer.write(_as_json(letter) if args.json else line(letter.raw))
    sys.stdout.buffer.flush()


def _open_letters(letters: Letters, wanted: Wanted) -> Iterator[Letter]:
    """Whole letters, but for those that a retry stores meanwhile."""
    for page in letters.letter_pages(wanted):
        yield from (letter for letter in letters.read_letters(page) if not letter.retried_at)


def line(raw: bytes) -> bytes:
    """A record as a sender sends it: a CR at its own end needs another one to stay."""
    return raw + (b"\r\n" if raw.endswith(b"\r") else b"\n")


def _as_json(letter: Letter) -> bytes:
    facts = words.facts(letter) | words.record(letter.raw)
    return json.dumps(facts, ensure_ascii=False).encode() + b"\n"
