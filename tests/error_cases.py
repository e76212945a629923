"""What a database refuses, row by row of the table of errors: one case for each answer.

A case says what the table is like and which record the database must refuse, with which number.
`check` sends it between good neighbours through the real row maker into a real server, and looks
at everything that is left behind: the neighbours, the dead letter with its bytes, the ledger's
sums, and that the stream goes on. Written over any server, so that each kind runs the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from appliance.batch import Batch, Stored
from appliance.config import Column
from appliance.frame import Frame, Header, checksum
from appliance.rows import RowMaker
from appliance.stores.mysql import MySQLStore
from tests.sql_server import SQLDatabase

RUN = "0190163d8694739b88b7b1c3e2f00001"

Answer = tuple[int, str]  # the server's number and the dead letter's code


@dataclass(frozen=True)
class Case:
    """One refused record and the table that refuses it.

    `type` is that of column x; `good` and `bad` are JSON texts of its values ({} in `good` is a
    number of its own; a lone surrogate in `bad` is a byte that is no UTF-8). `before` and `after`
    the tables are made these statements run, then the trigger is made. `answer` is the server's
    number (0: it is never asked) and the dead letter's code, or one for each kind of server.
    `first` is stored beforehand. There is no good neighbour where `good` is empty.
    """

    name: str
    type: str
    bad: str
    answer: Answer | Mapping[str, Answer]
    good: str = "{}"
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    trigger: str = ""
    first: str = ""

    def answer_of(self, flavour: str) -> Answer | None:
        """What this kind of server says; None where it has no such thing."""
        return self.answer.get(flavour) if isinstance(self.answer, Mapping) else self.answer

    def columns(self) -> dict[str, Column]:
        """As in [store.columns]."""
        return {
            "n": Column(type="BIGINT", path="n"),
            "x": Column(type=self.type, path="x"),
            "raw": Column(type="LONGTEXT", path=""),
        }

    def good_record(self, n: int) -> bytes:
        """The n-th record that the table takes."""
        return record(n, self.good.replace("{}", str(n)))


def both(mariadb: Answer, mysql: Answer | None = None) -> Mapping[str, Answer]:
    """An answer that differs; without the second one, MySQL has no such thing."""
    return {"mariadb": mariadb} | ({"mysql": mysql} if mysql else {})


def when_negative(body: str) -> str:
    """A trigger's statement, for rows with x < 0."""
    return f"IF NEW.x < 0 THEN {body}; END IF"


def signal(what: str) -> str:
    """A trigger that refuses rows with x < 0."""
    return when_negative(f"SIGNAL SQLSTATE {what}")


PARENTS = (
    "CREATE TABLE parents (id INT PRIMARY KEY) ENGINE=InnoDB",
    "INSERT INTO parents VALUES (0), (1), (2), (3)",
)
FOREIGN_KEY = "ALTER TABLE records ADD FOREIGN KEY (x) REFERENCES parents (id)"
TABLE = "CREATE TABLE records (seq BIGINT AUTO_INCREMENT, n BIGINT, x INT{}, raw LONGTEXT, {})"
NESTED = "[" * 200 + "]" * 200

CASES = [
    # ── empty ──
    Case("1048 null", "INT NOT NULL", "null", (1048, "null")),
    Case(
        "1048 by a trigger",
        "INT NOT NULL",
        "-1",
        (1048, "null"),
        trigger=when_negative("SET NEW.x = NULL"),
    ),
    Case(
        "1364 no default",
        "INT",
        "1",
        (1364, "no default"),
        good="",
        before=[TABLE.format("", "other INT NOT NULL, PRIMARY KEY (seq)")],
    ),
    # ── too long ──
    Case("1406 VARCHAR", "VARCHAR(3)", '"abcd"', (1406, "too long"), good='"abc"'),
    Case("1406 VARCHAR in characters", "VARCHAR(3)", '"äöü🏈"', (1406, "too long"), good='"äö🏈"'),
    Case("1406 VARBINARY", "VARBINARY(3)", '"äö"', (1406, "too long"), good='"äb"'),
    Case("1406 TINYTEXT", "TINYTEXT", f'"{"a" * 256}"', (1406, "too long"), good=f'"{"a" * 255}"'),
    Case("1406 JSON text of a list", "VARCHAR(9)", "[1, 2, 3, 4, 5]", (1406, "too long")),
    Case("1406 BIT", "BIT(2)", "4", (1406, "too long"), good="1"),
    Case(
        "1118 row size",
        "TEXT",
        f'"{"a" * 2000}"',
        both((1118, "too long")),
        good='"short"',
        before=[
            "SET STATEMENT innodb_strict_mode = 0 FOR"
            " CREATE TABLE records (seq BIGINT AUTO_INCREMENT PRIMARY KEY, n BIGINT, x TEXT, "
            + ", ".join(f"t{i} TEXT" for i in range(9))
            + ", raw LONGTEXT) ENGINE=InnoDB ROW_FORMAT=COMPACT"
        ],
        trigger="; ".join(f"SET NEW.t{i} = NEW.x" for i in range(9)),
    ),
    # ── out of range ──
    Case("1264 TINYINT", "TINYINT", "128", (1264, "range"), good="127"),
    Case("1264 unsigned", "INT UNSIGNED", "-1", (1264, "range")),
    Case("1264 BIGINT", "BIGINT", "9223372036854775808", (1264, "range"), good=f"{-(2**63)}"),
    Case("1264 thirty digits", "BIGINT", "1" * 30, (1264, "range"), good="7"),
    Case("1264 DECIMAL", "DECIMAL(4,2)", "1e300", (1264, "range"), good="99.99"),
    Case("1264 FLOAT", "FLOAT", "1e308", (1264, "range"), good="1e38"),
    Case("1264 YEAR", "YEAR", "3000", (1264, "range"), good="2000"),
    Case(
        "1690 in a trigger",
        "BIGINT UNSIGNED",
        "3",
        (1690, "range"),
        good="9",
        trigger="SET NEW.x = NEW.x - CAST(5 AS UNSIGNED)",
    ),
    Case(
        "1441 in a trigger",
        "INT",
        "9999999",
        (1441, "range"),
        trigger="SET NEW.moment = DATE_ADD('2000-01-01', INTERVAL NEW.x DAY)",
        after=["ALTER TABLE records ADD COLUMN moment DATE"],
    ),
    # ── of another type ──
    Case("1366 INT", "INT", '"one"', (1366, "value")),
    Case("1366 an object", "INT", '{"a": 1}', (1366, "value")),
    Case("1366 latin1", "VARCHAR(9) CHARACTER SET latin1", '"🏈"', (1366, "value"), good='"é"'),
    Case("1366 a Chinese name in latin1", "TEXT CHARACTER SET latin1", '"李"', (1366, "value")),
    Case("1366 utf8mb3", "VARCHAR(9) CHARACTER SET utf8mb3", '"🏈"', (1366, "value"), good='"李"'),
    Case("1265 INT and more", "INT", '"12 and more"', (1265, "truncated"), good='"12"'),
    Case("1265 ENUM", "ENUM('a', 'b')", '"c"', (1265, "truncated"), good='"b"'),
    Case("1265 SET", "SET('a', 'b')", '"a,c"', (1265, "truncated"), good='"b,a"'),
    Case("1292 no such day", "DATETIME(6)", '"2024-02-30 12:00:00"', (1292, "value"), good="null"),
    Case("1292 DATE", "DATE", '"Wed Oct 10"', (1292, "value"), good='"2024-02-29"'),
    Case("1292 TIME", "TIME", '"noon"', (1292, "value"), good='"12:00:00"'),
    Case("1292 TIMESTAMP", "TIMESTAMP NULL", '"1969-01-01"', (1292, "value"), good='"2024-02-29"'),
    Case("1292 an object", "DATETIME", '{"at": 1}', (1292, "value"), good="null"),
    Case("1292 UUID", "UUID", '"nonsense"', both((1292, "value")), good="null"),
    Case("1292 INET6", "INET6", '"nonsense"', both((1292, "value")), good='"::1"'),
    Case("1416 GEOMETRY", "GEOMETRY", '"POINT(1 1)"', (1416, "value"), good="null"),
    Case(
        "1366 another shape",
        "INT",
        "-1",
        both((1366, "value"), (1416, "value")),
        after=["ALTER TABLE records ADD COLUMN place POLYGON"],
        trigger=when_negative("SET NEW.place = ST_GeomFromText('POINT(1 1)')"),
    ),
    Case(
        "JSON", "JSON", '"{"', both((4025, "check"), (3140, "value")), good='{"a": [1, null, "é"]}'
    ),
    Case("JSON too deep", "JSON", NESTED, both((4025, "check"), (3157, "value")), good="[[1]]"),
    Case(
        "1411 in a trigger",
        "VARCHAR(20)",
        '"31.31.2024"',
        (1411, "value"),
        good='"01.02.2024"',
        after=["ALTER TABLE records ADD COLUMN day DATE"],
        trigger="SET NEW.day = STR_TO_DATE(NEW.x, '%d.%m.%Y')",
    ),
    Case(
        "1365 in a trigger",
        "INT",
        "0",
        (1365, "value"),
        good="1{}",
        trigger="SET NEW.x = 100 / NEW.x",
    ),
    # ── keys, checks, partitions ──
    Case("1062 unique", "INT UNIQUE", "5", (1062, "duplicate"), good="1{}", first="5"),
    Case("1062 in another case", "VARCHAR(9) UNIQUE", '"A"', (1062, "duplicate"), first='"a"'),
    Case(
        "1062 of two columns",
        "INT",
        "5",
        (1062, "duplicate"),
        good="1{}",
        first="5",
        before=[TABLE.format("", "y INT DEFAULT 1, PRIMARY KEY (seq), UNIQUE (x, y)")],
    ),
    Case(
        "1062 in a trigger's table",
        "INT",
        "5",
        (1062, "duplicate"),
        good="1{}",
        first="5",
        before=["CREATE TABLE seen (x INT PRIMARY KEY) ENGINE=InnoDB"],
        trigger="INSERT INTO seen VALUES (NEW.x)",
    ),
    Case(
        "1452 foreign key",
        "INT",
        "9",
        (1452, "foreign key"),
        good="3",
        before=PARENTS,
        after=[FOREIGN_KEY],
    ),
    Case(
        "CHECK",
        "INT",
        "7",
        both((4025, "check"), (3819, "check")),
        good="1{}",
        after=["ALTER TABLE records ADD CONSTRAINT not_seven CHECK (x <> 7)"],
    ),
    Case(
        "1526 partition",
        "INT",
        "999",
        (1526, "partition"),
        before=[
            TABLE.format(" NOT NULL", "PRIMARY KEY (seq, x)")
            + " PARTITION BY RANGE (x) (PARTITION p VALUES LESS THAN (100))"
        ],
    ),
    # ── triggers ──
    Case("1644", "INT", "-1", (1644, "signal"), trigger=signal("'45000' SET MESSAGE_TEXT = 'no'")),
    Case("1644 45999", "INT", "-1", (1644, "signal"), trigger=signal("'45999'")),
    Case(
        "1644 with a number",
        "INT",
        "-1",
        (5998, "signal"),
        trigger=signal("'45000' SET MYSQL_ERRNO = 5998"),
    ),
    Case(
        "1644 with a number of ours",
        "INT",
        "-1",
        (1205, "signal"),
        trigger=signal("'45000' SET MYSQL_ERRNO = 1205"),
    ),
    Case("1643 not found", "INT", "-1", (1643, "signal"), trigger=signal("'02000'")),
    Case(
        "a data exception unknown",
        "INT",
        "-1",
        (5997, "value"),
        trigger=signal("'22012' SET MYSQL_ERRNO = 5997"),
    ),
    Case(
        "a constraint unknown",
        "INT",
        "-1",
        (5996, "constraint"),
        trigger=signal("'23000' SET MYSQL_ERRNO = 5996"),
    ),
    Case(
        "unknown",
        "INT",
        "-1",
        (5999, "error 5999"),
        trigger=signal("'HY001' SET MYSQL_ERRNO = 5999"),
    ),
    Case(
        "unknown and large",
        "INT",
        "-1",
        (64999, "error 64999"),
        trigger=signal("'HY001' SET MYSQL_ERRNO = 64999"),
    ),
    Case(
        "1172 too many rows",
        "INT",
        "-1",
        (1172, "signal"),
        before=PARENTS,
        trigger=when_negative("SELECT id INTO @found FROM parents"),
    ),
    Case(
        "1242 more than one row",
        "INT",
        "-1",
        (1242, "signal"),
        before=PARENTS,
        trigger=when_negative("SET @found = (SELECT id FROM parents)"),
    ),
    Case(
        "1339 no case",
        "INT",
        "-1",
        (1339, "signal"),
        trigger=when_negative("CASE NEW.x WHEN 5 THEN SET @found = 1; END CASE"),
    ),
    Case(
        "1329 no data",
        "INT",
        "-1",
        (1329, "signal"),
        before=PARENTS,
        trigger=when_negative(
            "BEGIN DECLARE found INT; DECLARE nobody CURSOR FOR"
            " SELECT id FROM parents WHERE id > 99; OPEN nobody; FETCH nobody INTO found; END"
        ),
    ),
    # ── before it gets to the database ──
    Case("invalid UTF-8", "TEXT", '"\udcff"', (0, "utf8")),
    Case("overlong UTF-8", "TEXT", '"\udcc0\udc80"', (0, "utf8")),
    Case("lone surrogate", "TEXT", '"\\ud800"', (0, "json")),
    Case("low surrogate alone", "TEXT", '"\\udc00x"', (0, "json")),
    Case("NUL", "TEXT", '"\0"', (0, "json"), good='"\\u0000"'),
    Case("a number too large", "DOUBLE", "1e400", (0, "json"), good="1e300"),
    Case("a number with too many digits", "DOUBLE", "9" * 400, (0, "json")),
    Case("too deep", "JSON", "[" * 2000 + "]" * 2000, (0, "json"), good="[[{}]]"),
]


def header(number: int, body: bytes) -> Header:
    """A frame's header."""
    return Header(
        run=RUN,
        number=number,
        source="tweets",
        records=body.count(b"\n"),
        records_before=0,
        bytes_before=0,
        body_bytes=len(body),
        crc=checksum(body),
        first_received=1_700_000_000.25,
        last_received=1_700_000_001.0,
    )


def batch_of(number: int, records: Sequence[bytes], columns: Mapping[str, Column]) -> Batch:
    """What the row maker makes of a frame of these records."""
    body = b"".join(record + b"\n" for record in records)
    maker = RowMaker(columns, "json", (), "tweets")
    return maker.batch(Frame(header(number, body), body))


def record(n: int, value: str) -> bytes:
    """A record whose x is this JSON text."""
    return f'{{"n": {n}, "x": {value}}}'.encode(errors="surrogateescape")


def check(database: SQLDatabase, case: Case) -> None:
    """The refused record is a dead letter, its neighbours are rows, and the stream goes on."""
    answer = case.answer_of(database.server.flavour)
    assert answer is not None
    number, code = answer
    store = prepared(database, case)
    firsts = [record(1, case.first)] if case.first else []
    assert store.store([batch_of(1, firsts, case.columns())]) == Stored(1, len(firsts))

    bad, goods = record(2, case.bad), [case.good_record(n) for n in (3, 4, 5) if case.good]
    frame = [*goods[:1], bad, *goods[1:2]]
    batch = batch_of(2, frame, case.columns())
    assert store.store([batch]) == Stored(frames=1, stored=len(frame) - 1, dead=1)
    [(*place, raw, found, reason)] = database.dead()
    assert (*place, raw, found) == (2, frame.index(bad), bad, code), reason
    assert number == 0 or f"({number}" in reason, reason
    assert database.raws() == [*firsts, *goods[:2]]

    assert store.store([batch]) == Stored()
    assert store.store([batch_of(3, goods[2:], case.columns())]) == Stored(1, len(goods[2:]))
    store.fold()
    assert database.raws() == [*firsts, *goods]
    rows = len(firsts + goods)
    sums = {"records": rows + 1, "stored": rows, "filtered": 0, "dead": 1, "blank": 0}
    assert database.sums() == sums


def prepared(database: SQLDatabase, case: Case) -> MySQLStore:
    """A store whose tables are what the case says."""
    for statement in case.before:
        database.run(statement)
    store = database.store(case.columns())
    store.prepare()
    for statement in case.after:
        database.run(statement)
    if case.trigger:
        database.run(
            f"CREATE TRIGGER judge BEFORE INSERT ON records FOR EACH ROW BEGIN {case.trigger}; END"
        )
    return store
