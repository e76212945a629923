"""A fictional stream of tweets about the 32 teams of the NFL, for `demo`.

What a `TweetMaker` makes looks like Twitter's streaming API v1.1 looked: one JSON object a
record, with an empty record as keep-alive now and then, each ended by CR LF. About half of
the tweets name a team, some two, in any case and between any punctuation. The others name
none, and some of them invite a mistake: `unpackers`, `#BillsMafia`, a lone `bear`, a mention
of @PackersFan12, or a team in the author's description, where a filter on the text must not
look. Three spellings of JSON are mixed, because real streams mix them: UTF-8, \\u escapes, and
\\u escapes with \\/ for the slash.

The same random numbers make the same stream. People, places and opinions are invented.

Who changes the sentences keeps two rules, which tests/test_tweets.py checks over many seeds:
a slot for a team has no letter, digit or underscore beside it, and nothing else in a text is
a team's name as a whole word.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

RECORD_END = b"\r\n"
KEEP_ALIVE = RECORD_END

TEXT_CHARACTERS_MAX = 140
USERS = 300
RECENT_TWEETS_MAX = 100  # what can be retweeted
NAMING_SHARE = 0.5  # of the tweets name a team
RETWEET_SHARE = 0.2
NEAR_MISS_SHARE = 0.3  # of the tweets that name no team

NFL_TEAMS = (
    *("49ers", "Bears", "Bengals", "Bills", "Broncos", "Browns", "Buccaneers", "Cardinals"),
    *("Chargers", "Chiefs", "Colts", "Commanders", "Cowboys", "Dolphins", "Eagles", "Falcons"),
    *("Giants", "Jaguars", "Jets", "Lions", "Packers", "Panthers", "Patriots", "Raiders"),
    *("Rams", "Ravens", "Saints", "Seahawks", "Steelers", "Texans", "Titans", "Vikings"),
)

# ── what people say ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Language:
    """One language of the stream: what is said about a team, about two, about anything else."""

    one: tuple[str, ...]
    two: tuple[str, ...]
    other: tuple[str, ...]
    share: int  # in tweets of a hundred, roughly


LANGUAGES = {
    "en": Language(
        one=(
            "What a throw! {} by 10, calling it now.",
            "{} fans, how are we feeling tonight?",
            'Coach said "we are the {}, we don\'t punt". And then they punted.',
            "I can't watch this any more... {}",
            "Third and long\nfumble\ntouchdown the other way\n{}, everybody.",
            "My dad has had {} season tickets since 1974 &amp; never missed a game",
            "if the {} win this I'm shaving my head",
            "Somebody explain this playbook to me: O\\_X/ O ({})",
        ),
        two=(
            "{} vs {} in the rain, doesn't get better than this",
            "Trade rumour: {} sending two firsts to the {}",
            "{}/{}: who you got?",
        ),
        other=(
            "Anyone else still awake? Asking for a friend.",
            "New phone, who dis",
            'She said "just five minutes" an hour ago',
            "Path of the day: C:\\temp\\new\\recipes.txt",
            "coffee &gt; everything &lt;3",
            "Three things I learned today:\n1. nothing\n2. see 1\n3. sleep",
            "It's Sunday and the game isn't even on yet",
        ),
        share=52,
    ),
    "es": Language(
        one=("¡Vamos {}! ¡Esta noche sí!", "¿Viste el partido de los {}? Increíble, niño"),
        two=("Hoy {} contra {}, ¿quién gana?",),
        other=("Mañana será otro día, corazón", "¿Alguien más sin luz en el centro?"),
        share=10,
    ),
    "ja": Language(
        one=("今日は {} の試合を見るぞ！", "えっ、 {} 負けたの？なんで…"),
        two=("{} 対 {} 、どっちが勝つかな？",),
        other=("おなかすいた。ラーメン食べたい", "明日も早いのでもう寝ます。おやすみ〜"),
        share=10,
    ),
    "ar": Language(
        one=("مباراة {} الليلة، لا تفوتوها", "يا سلام! {} يفوز مرة أخرى"),
        two=("{} ضد {} من سيفوز؟",),
        other=("صباح الخير يا أصدقاء", "القهوة أولاً ثم كل شيء"),
        share=4,
    ),
    "ru": Language(
        one=("Ну что, {} опять в плей-офф!", "Кто-нибудь смотрит {} сегодня ночью?"),
        two=("{} против {}: ставки принимаются",),
        other=("Снег в апреле, ёлки-палки", "Объявили перерыв, иду за чаем"),
        share=4,
    ),
    "pt": Language(
        one=("Vai {}! Não acredito nesse lance", "Meu coração não aguenta, {} ..."),
        two=("{} x {} agora na TV, pipoca pronta",),
        other=("Alguém me traz um pão de queijo", "Amanhã é feriado, né?"),
        share=6,
    ),
    "ko": Language(
        one=("오늘 {} 경기 진짜 대박!", "아... {} 또 졌다 ㅠㅠ"),
        two=("{} 대 {} , 누가 이길까?",),
        other=("배고프다 치킨 먹고 싶다", "내일 시험인데 큰일났다 ㅋㅋㅋ"),
        share=4,
    ),
    "hi": Language(
        one=("आज {} का मैच है, कौन देख रहा है?",),
        two=("{} बनाम {} : कौन जीतेगा?",),
        other=("सुप्रभात दोस्तों", "चाय के बिना सुबह अधूरी है"),
        share=2,
    ),
    "de": Language(
        one=("Die {} schon wieder, völlig irre", "Wer schaut heute noch {}? Übermüdet bin ich eh"),
        two=("{} gegen {}, bis 4 Uhr früh. Schön blöd.",),
        other=("Größter Döner der Stadt, ehrlich", "Zug fällt aus. Natürlich."),
        share=4,
    ),
    "tr": Language(
        one=("Bu gece {} maçı var, uyumak yok", "Hadi {}! İnanıyorum size"),
        two=("{} mı, {} mi? Söyleyin bakalım",),
        other=("Çay demledim, gelen var mı?", "İstanbul'da yine yağmur"),
        share=2,
    ),
    "fr": Language(
        one=("Allez les {} ! C'est déjà gagné", "Réveil à 2h pour voir les {}, ça valait le coup"),
        two=("{} contre {} : mon cœur balance",),
        other=("Où est passé l'été ?", "Encore raté le métro, génial"),
        share=2,
    ),
}

NEAR_MISSES = (
    "unpackers",
    "ramshackle",
    "billsx",
    "packers_fan",
    "jetsam",
    "#BillsMafia",
    "#49ersFaithful",
    "#RaidersNation4ever",
    "149ers",
    "bear",
    "lion-hearted",
    "brownstone",
    "giant eagle",
    "titanium",
    "@PackersFan12",
    "saintsbury",
    "coltsfoot",
)

EMOJI = ("🏈", "🔥", "😂", "😭", "🏆", "👀", "❤️", "🙌🏽", "🤦‍♀️", "🇧🇷", "💤", "☕")
HASHTAGS = (
    "SundayFunday",
    "nfl",
    "Kickoff",
    "monday",
    "NowPlaying",
    "футбол",
    "おはよう",
    "fútbol",
)
GIVEN_NAMES = ("Ada", "José", "Yuki", "Omar", "Ольга", "João", "지우", "Priya", "Jürgen", "Işıl")
FAMILY_NAMES = ("Kowalski", "O'Neil", "Sato", "Müller", "Silva", "Ng", "d'Arc", "Yılmaz", "李")
HANDLES = ("touchdown", "couch", "nachos", "night", "river", "pixel", "moon", "turbo", "kiwi")
PLACES = (
    "",
    "",
    "Ohio",
    "São Paulo",
    "東京",
    "Green Bay, WI",
    "İzmir",
    "the couch",
    "Köln",
    "서울",
)
DESCRIPTIONS = (
    "",
    "Coffee, code, cats.",
    "Proud Packers fan since 1998",
    'Opinions "mine".\nMostly about the Bills.',
    "ママ｜猫2匹｜のんびり",
    "Vive y deja vivir ✨",
    "Retired. Gardener. Loud.",
)
SOURCES = (
    '<a href="http://twitter.com/download/iphone" rel="nofollow">Twitter for iPhone</a>',
    '<a href="http://twitter.com/download/android" rel="nofollow">Twitter for Android</a>',
    '<a href="https://mobile.twitter.com" rel="nofollow">Twitter Web App</a>',
    "web",
)

AS_WRITTEN: tuple[Callable[[str], str], ...] = (
    str,
    str,
    str.upper,
    str.lower,
    str.swapcase,
    "#{}".format,
    "{}!".format,
    "{}'".format,
    '"{}"'.format,
    "({})".format,
    "@{}".format,
)

# ── the stream ──────────────────────────────────────────────────────────────────────────

Item = TypeVar("Item")
Json = dict[str, Any]


class Chance(Protocol):
    """The random numbers that a stream is made of; `random.Random` is one."""

    def random(self) -> float: ...
    def randrange(self, start: int, stop: int, /) -> int: ...
    def choice(self, seq: Sequence[Item], /) -> Item: ...


@dataclass(frozen=True, slots=True)
class Tweet:
    """One tweet as it is sent, without the record's end, and the teams that its text names."""

    id: int
    line: bytes
    teams: tuple[str, ...]


class TweetMaker:
    """Makes the stream, one tweet at a time; ids rise and never repeat."""

    def __init__(self, chance: Chance, teams: Sequence[str] = NFL_TEAMS) -> None:
        self._chance = chance
        self._teams = teams
        self._now = datetime(2022, 9, 11, 17, 0, tzinfo=UTC)
        self._id = 1_568_992_000_000_000_000
        self._users = [self._user() for _ in range(USERS)]
        self._recent: deque[tuple[Json, tuple[str, ...]]] = deque(maxlen=RECENT_TWEETS_MAX)

    def tweet(self) -> Tweet:
        """The next tweet of the stream."""
        self._now += timedelta(milliseconds=self._chance.randrange(0, 3))
        if self._recent and self._chance.random() < RETWEET_SHARE:
            status, teams = self._retweet(*self._chance.choice(self._recent))
        else:
            status, teams = self._original()
        return Tweet(status["id"], _spelled(status, self._chance.choice(SPELLINGS)), teams)

    def _original(self) -> tuple[Json, tuple[str, ...]]:
        language = self._chance.choice(_LANGUAGE_WHEEL)
        text = _Text()
        teams: tuple[str, ...] = ()
        if self._chance.random() < NAMING_SHARE:
            teams = self._about_teams(text, LANGUAGES[language])
        else:
            self._about_anything(text, LANGUAGES[language])
        self._decorate(text)
        status = self._status(text, language)
        self._recent.append((status, teams))
        return status, teams

    def _about_teams(self, text: "_Text", language: Language) -> tuple[str, ...]:
        """A sentence with one team or two; returns them."""
        team, rival = self._chance.choice(self._teams), self._chance.choice(self._teams)
        teams = (team,) if team == rival or self._chance.random() < 0.8 else (team, rival)
        sentence = self._chance.choice(language.one if len(teams) == 1 else language.two)
        names = [self._chance.choice(AS_WRITTEN)(team) for team in teams]
        text.add(sentence.format(*names))
        text.mark_hashtags(name[1:] for name in names if name.startswith("#"))
        return teams

    def _about_anything(self, text: "_Text", language: Language) -> None:
        """Anything but a team, sometimes with something that looks like one."""
        text.add(self._chance.choice(language.other))
        if self._chance.random() < NEAR_MISS_SHARE:
            text.add(self._chance.choice(NEAR_MISSES))

    def _decorate(self, text: "_Text") -> None:
        """Whatever else stands in a tweet: a mention, a tag, a picture, a link."""
        if self._chance.random() < 0.25:
            text.add_mention(self._chance.choice(self._users))
        if self._chance.random() < 0.3:
            text.add_hashtag(self._chance.choice(HASHTAGS))
        if self._chance.random() < 0.5:
            text.add(self._chance.choice(EMOJI))
        if self._chance.random() < 0.2:
            text.add_url(f"{self._chance.randrange(10**9, 10**10):x}")

    def _retweet(self, original: Json, teams: tuple[str, ...]) -> tuple[Json, tuple[str, ...]]:
        text = _Text()
        text.add("RT")
        text.add_mention(original["user"])
        text.append(":")
        text.quote(original)
        if len(text.text) > TEXT_CHARACTERS_MAX:  # a cut could go through a team's name
            return self._original()
        status = self._status(text, original["lang"])
        original["retweet_count"] += 1
        status["retweeted_status"] = original
        return status, teams

    def _status(self, text: "_Text", language: str) -> Json:
        self._id += self._chance.randrange(1, 1 << 22)
        user = self._chance.choice(self._users)
        user["statuses_count"] += 1
        return {
            "created_at": twitter_time(self._now),
            "id": self._id,
            "id_str": str(self._id),
            "text": text.text,
            "source": self._chance.choice(SOURCES),
            "truncated": False,
            "in_reply_to_status_id": None,
            "in_reply_to_status_id_str": None,
            "in_reply_to_user_id": None,
            "in_reply_to_screen_name": None,
            "user": user,
            "geo": None,
            "coordinates": None,
            "place": None,
            "contributors": None,
            "retweet_count": 0,
            "favorite_count": self._chance.randrange(0, 9),
            "entities": text.entities(),
            "favorited": False,
            "retweeted": False,
            "possibly_sensitive": False,
            "filter_level": "low",
            "lang": language,
            "timestamp_ms": str(int(self._now.timestamp() * 1000)),
        }

    def _user(self) -> Json:
        chance = self._chance
        number = chance.randrange(10**7, 4 * 10**9)
        picture = f"//pbs.twimg.example/profile_images/{number}/{number:x}_normal.jpeg"
        return {
            "id": number,
            "id_str": str(number),
            "name": f"{chance.choice(GIVEN_NAMES)} {chance.choice(FAMILY_NAMES)}",
            "screen_name": f"{chance.choice(HANDLES)}{chance.choice(HANDLES)}{number % 1000}",
            "location": chance.choice(PLACES),
            "description": chance.choice(DESCRIPTIONS),
            "url": None,
            "protected": False,
            "verified": chance.random() < 0.02,
            "followers_count": chance.randrange(0, 50_000),
            "friends_count": chance.randrange(0, 3_000),
            "listed_count": chance.randrange(0, 40),
            "favourites_count": chance.randrange(0, 20_000),
            "statuses_count": chance.randrange(1, 90_000),
            "created_at": twitter_time(
                self._now - timedelta(seconds=chance.randrange(1, 3 * 10**8))
            ),
            "utc_offset": None,
            "time_zone": None,
            "geo_enabled": chance.random() < 0.3,
            "lang": chance.choice(_LANGUAGE_WHEEL),
            "contributors_enabled": False,
            "is_translator": False,
            "profile_background_color": f"{chance.randrange(0, 1 << 24):06X}",
            "profile_background_tile": False,
            "profile_link_color": f"{chance.randrange(0, 1 << 24):06X}",
            "profile_image_url": "http:" + picture,
            "profile_image_url_https": "https:" + picture,
            "default_profile": chance.random() < 0.6,
            "default_profile_image": False,
            "following": None,
            "follow_request_sent": None,
            "notifications": None,
        }


class _Text:
    """A tweet's text while it grows, and where in it the entities stand (in code points)."""

    def __init__(self) -> None:
        self.text = ""
        self._entities: dict[str, list[Json]] = {
            kind: [] for kind in ("hashtags", "urls", "user_mentions", "symbols")
        }

    def append(self, text: str) -> None:
        """Put text at the very end."""
        self.text += text

    def add(self, words: str) -> list[int]:
        """Put words behind a space; returns where they stand."""
        self.text += f" {words}" if self.text else words
        return [len(self.text) - len(words), len(self.text)]

    def add_hashtag(self, tag: str) -> None:
        self._mark("hashtags", {"text": tag}, self.add("#" + tag))

    def add_mention(self, user: Json) -> None:
        named = {key: user[key] for key in ("screen_name", "name", "id", "id_str")}
        self._mark("user_mentions", named, self.add("@" + user["screen_name"]))

    def add_url(self, key: str) -> None:
        url, page = f"https://t.example/{key}", f"news.example/{key}.html"
        link = {"url": url, "expanded_url": f"https://{page}", "display_url": page}
        self._mark("urls", link, self.add(url))

    def mark_hashtags(self, tags: Iterable[str]) -> None:
        """Note tags that stand in the text already."""
        for tag in tags:
            start = self.text.index("#" + tag)
            self._mark("hashtags", {"text": tag}, [start, start + 1 + len(tag)])

    def quote(self, original: Json) -> None:
        """Put another tweet's text behind a space, with its entities."""
        offset = self.add(original["text"])[0]
        for kind, entities in original["entities"].items():
            for entity in entities:
                start, end = entity["indices"]
                self._mark(kind, entity, [offset + start, offset + end])

    def entities(self) -> Json:
        """What Twitter's `entities` says of this text."""
        return self._entities

    def _mark(self, kind: str, entity: Json, indices: list[int]) -> None:
        self._entities[kind].append(entity | {"indices": indices})


# ── spelling ────────────────────────────────────────────────────────────────────────────

_UTF8 = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_ASCII = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"))
SPELLINGS = ("utf-8", "escaped", "escaped with slashes")
_LANGUAGE_WHEEL = tuple(name for name, language in LANGUAGES.items() for _ in range(language.share))


def _spelled(status: Json, spelling: str) -> bytes:
    """One status as one line of JSON, in one of the three spellings."""
    if spelling == "utf-8":
        return _UTF8.encode(status).encode()
    text = _ASCII.encode(status)
    return (text if spelling == "escaped" else text.replace("/", "\\/")).encode()


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def twitter_time(moment: datetime) -> str:
    """A moment as Twitter writes it, whatever the locale: `Wed Aug 27 13:08:45 +0000 2008`."""
    day, month = _DAYS[moment.weekday()], _MONTHS[moment.month - 1]
    return f"{day} {month} {moment:%d %H:%M:%S} +0000 {moment.year}"


class TeamFinder:
    """Finds the teams that a text names as whole words, in any case."""

    def __init__(self, teams: Sequence[str] = NFL_TEAMS) -> None:
        self._by_folded = {team.casefold(): team for team in teams}
        self._words = re.compile(r"\w+")

    def teams(self, text: str) -> set[str]:
        """Each team that the text names, once."""
        words = map(str.casefold, self._words.findall(text))
        return {self._by_folded[word] for word in words if word in self._by_folded}
