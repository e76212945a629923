"""The demo's stream: what a tweet says about teams is true, and it looks like Twitter's."""

import json
import re
from datetime import UTC, datetime
from itertools import product
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import tweets
from appliance.config import Column, Filter
from appliance.frame import Frame, Header, checksum
from appliance.rows import RowMaker
from appliance.tweets import LANGUAGES, NFL_TEAMS, TeamFinder, Tweet, TweetMaker, twitter_time

FINDER = TeamFinder()
SEEDS = st.integers(0, 2**32)


def stream(seed: int, count: int) -> list[Tweet]:
    maker = TweetMaker(Random(seed))
    return [maker.tweet() for _ in range(count)]


def named_in(text: str) -> set[str]:
    """The rule again, written in another way than in the program."""
    folded = text.casefold()
    return {team for team in NFL_TEAMS if re.search(rf"(?<!\w){team.casefold()}(?!\w)", folded)}


@given(SEEDS)
def test_a_tweet_names_exactly_the_teams_that_it_says(seed: int) -> None:
    for tweet in stream(seed, 50):
        text = json.loads(tweet.line)["text"]
        assert named_in(text) == FINDER.teams(text) == set(tweet.teams), text


@given(SEEDS)
def test_the_filter_of_the_program_keeps_exactly_the_tweets_that_name_a_team(seed: int) -> None:
    sent = stream(seed, 50)
    body = b"".join(tweet.line + tweets.RECORD_END for tweet in sent) + tweets.KEEP_ALIVE
    columns = {
        "id": Column(type="BIGINT", path="id"),
        "raw": Column(type="LONGTEXT", path=""),
    }
    rows = RowMaker(columns, "json", [Filter("text", NFL_TEAMS)], "tweets")
    header = Header("0" * 32, 1, "tweets", 51, 0, 0, len(body), checksum(body), 0.0, 0.0)
    batch = rows.batch(Frame(header, body))
    assert batch.rows == [(tweet.id, tweet.line.decode()) for tweet in sent if tweet.teams]
    assert (batch.filtered, batch.blank) == (50 - len(batch.rows), 1)
    assert not batch.dead


SENTENCES = {
    1: [sentence for language in LANGUAGES.values() for sentence in language.one],
    2: [sentence for language in LANGUAGES.values() for sentence in language.two],
}


@pytest.mark.parametrize(
    ("names", "sentence"),
    [(names, sentence) for names in SENTENCES for sentence in SENTENCES[names]],
)
def test_every_sentence_names_its_teams_however_they_are_written(names: int, sentence: str) -> None:
    for written in product(tweets.AS_WRITTEN, repeat=names):
        teams = ("49ers", "Packers")[:names]
        text = sentence.format(*(write(team) for write, team in zip(written, teams, strict=True)))
        assert FINDER.teams(text) == set(teams), text


@pytest.mark.parametrize(
    "text",
    [
        *(sentence for language in LANGUAGES.values() for sentence in language.other),
        *tweets.NEAR_MISSES,
        *("#" + tag for tag in tweets.HASHTAGS),
        *tweets.HANDLES,
        *tweets.GIVEN_NAMES,
        *tweets.FAMILY_NAMES,
    ],
)
def test_nothing_else_is_a_team(text: str) -> None:
    assert FINDER.teams(text) == named_in(text) == set()


@given(SEEDS)
def test_ids_rise_and_a_tweet_is_one_line(seed: int) -> None:
    sent = stream(seed, 50)
    ids = [tweet.id for tweet in sent]
    assert ids == sorted(set(ids))
    assert ids[-1] < 2**63
    for tweet in sent:
        status = json.loads(tweet.line)
        assert (status["id"], status["id_str"]) == (tweet.id, str(tweet.id))
        assert not {b"\r", b"\n"} & {tweet.line[i : i + 1] for i in range(len(tweet.line))}


@given(SEEDS)
def test_entities_stand_where_they_say(seed: int) -> None:
    for tweet in stream(seed, 50):
        status = json.loads(tweet.line)
        check_entities(status)
        if "retweeted_status" in status:
            original = status["retweeted_status"]
            check_entities(original)
            assert status["text"] == f"RT @{original['user']['screen_name']}: {original['text']}"


def check_entities(status: dict[str, Any]) -> None:
    def shown(entity: dict[str, Any]) -> str:
        start, end = entity["indices"]
        return str(status["text"][start:end])

    entities = status["entities"]
    assert set(entities) == {"hashtags", "urls", "user_mentions", "symbols"}
    for tag in entities["hashtags"]:
        assert shown(tag) == "#" + tag["text"]
    for mention in entities["user_mentions"]:
        assert shown(mention) == "@" + mention["screen_name"]
    for url in entities["urls"]:
        assert shown(url) == url["url"]


def test_the_same_seed_is_the_same_stream_and_another_one_is_not() -> None:
    assert stream(7, 200) == stream(7, 200)
    assert stream(7, 200) != stream(8, 200)


def test_the_stream_has_all_that_a_stream_has() -> None:
    sent = stream(1, 5000)
    statuses = [json.loads(tweet.line) for tweet in sent]
    texts = [status["text"] for status in statuses]
    assert 0.45 < sum(bool(tweet.teams) for tweet in sent) / len(sent) < 0.55
    assert {team for tweet in sent for team in tweet.teams} == set(NFL_TEAMS)
    assert max(len(tweet.teams) for tweet in sent) == 2
    assert 1000 < sum(len(tweet.line) for tweet in sent) / len(sent) < 2500
    assert {status["lang"] for status in statuses} == set(LANGUAGES)
    assert 0.1 < sum("retweeted_status" in status for status in statuses) / len(sent) < 0.3
    assert max(map(len, texts)) <= tweets.TEXT_CHARACTERS_MAX
    for sign in ("\n", '"', "\\", "🏈", "&amp;"):
        assert any(sign in text for text in texts), sign
    assert any(not tweet.line.isascii() for tweet in sent)
    assert any(rb"\ud83c\udfc8" in tweet.line for tweet in sent)
    assert any(rb"\/" in tweet.line for tweet in sent)


def test_some_tweets_hold_a_team_where_the_filter_must_not_look() -> None:
    sent = stream(1, 500)
    assert any(not tweet.teams and b"Proud Packers fan" in tweet.line for tweet in sent)
    assert any(not tweet.teams and b"unpackers" in tweet.line for tweet in sent)


def test_time_is_written_as_twitter_writes_it() -> None:
    assert twitter_time(datetime(2008, 8, 27, 13, 8, 45, tzinfo=UTC)) == (
        "Wed Aug 27 13:08:45 +0000 2008"
    )
