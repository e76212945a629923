"""`dead retry`: store dead letters, after table or configuration was mended.

Page by page, each in a transaction that also says so in the ledger (stores/letters.py): killed
anywhere, run twice at once, beside a running instance, each record is stored once.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from appliance import backoff
from appliance.batch import Batch
from appliance.errors import Unavailable
from appliance.frame import Header
from appliance.rows import RowMaker, epoch_s
from appliance.stores.letters import Letter, Letters, Name, Retried
from appliance.verbs.dead import asked
from appliance.verbs.progress import counted

TRIES_MAX = 4  # of one page: a deadlock, a lost connection; what lasts longer ends it

Maker = Callable[[str], RowMaker]


def retry(args: argparse.Namespace, letters: Letters, maker: Maker) -> None:
    """Try all letters that are asked for, and say what became of them.

    Raises:
        Unavailable: the database doesn't do its work; what is done so far is said, and stays.
    """
    wanted = asked.wanted(args, letters)
    letters.prepare()  # a column that is missing still is said before the first letter
    asked.say_left_out(letters, wanted)
    there_are = sum(letters.count_letters(wanted).values())
    total, done = min(there_are, args.limit or there_are), 0
    account = Account(letters, maker, keep=not args.dry_run)
    with counted("dead retry", "letters") as tell:
        tell(done, total)
        try:
            for page in _limited(letters.letter_pages(wanted), args.limit):
                account.retry(page)
                done += len(page)
                tell(done, total)
        except Unavailable as error:
            raise Unavailable(
                f"{account.sentence}; then: {error.message}",
                error.hint or "what is done stays done: run it again",
            ) from error
        except KeyboardInterrupt:
            print(account.sentence, file=sys.stderr)
            raise
    print(account.sentence)


class Account:
    """What a retry has done so far."""

    def __init__(self, letters: Letters, maker: Maker, *, keep: bool) -> None:
        self._letters = letters
        self._maker = maker
        self._keep = keep
        self._done = Retried()

    def retry(self, names: Sequence[Name]) -> None:
        """Try one page, again where the database may do its work in a moment."""
        for attempt in range(TRIES_MAX):
            try:
                self._done += self._letters.retry_letters(names, self._remake, keep=self._keep)
                return
            except Unavailable as error:
                if error.loud or attempt == TRIES_MAX - 1:
                    raise
                time.sleep(backoff.full_jitter(attempt, 1.0))

    def _remake(self, letters: Sequence[Letter]) -> list[Batch]:
        return remake(letters, self._maker)

    @property
    def sentence(self) -> str:
        """The last line."""
        done = self._done
        parts = [
            f"stored {done.stored}",
            f"filtered {done.filtered}",
            f"still dead {done.dead}",
            *([f"empty {done.blank}"] if done.blank else []),
            *([f"retried by others meanwhile {done.gone}"] if done.gone else []),
        ]
        return ", ".join(parts) + ("" if self._keep else " (a dry run: nothing was changed)")


def remake(letters: Sequence[Letter], maker: Maker) -> list[Batch]:
    """Rows of letters of one run, as columns and filters are now: a batch for each frame."""
    return [
        maker(source).batch_again(
            _header(found := list(part)), {letter.name.position: letter.raw for letter in found}
        )
        for (_, _, source), part in groupby(letters, key=_frame)
    ]


def _frame(letter: Letter) -> tuple[bytes, int, str]:
    return (letter.name.run, letter.name.frame, letter.source)


def _header(letters: Sequence[Letter]) -> Header:
    """What the rows take from their frame's header; the rest is of no use any more."""
    first = letters[0]
    received = epoch_s(first.received_at)
    return Header(
        run=first.name.run.hex(),
        number=first.name.frame,
        source=first.source,
        records=len(letters),
        records_before=0,
        bytes_before=0,
        body_bytes=0,
        crc=0,
        first_received=received,
        last_received=received,
    )


def _limited(pages: Iterator[list[Name]], limit: int | None) -> Iterator[list[Name]]:
    """Pages of no more than so many names in all."""
    left = limit
    for page in pages:
        yield page[:left]
        if left is not None:
            left -= len(page)
            if left <= 0:
                return
