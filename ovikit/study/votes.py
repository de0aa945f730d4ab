"""Raters, what each is shown, and their votes: one SQLite file, written before the answer goes out."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ovikit.errors import UserError
from ovikit.files import atomic_write_text
from ovikit.study.records import DIMENSIONS, VOTES_DB, Dimension, Pair, Side, Study, Vote, Winner

TABLES = """
CREATE TABLE IF NOT EXISTS raters (rater TEXT PRIMARY KEY, joined REAL NOT NULL, name TEXT);
CREATE TABLE IF NOT EXISTS shown (
    rater TEXT NOT NULL REFERENCES raters, place INTEGER NOT NULL, pair TEXT NOT NULL, left_side TEXT NOT NULL,
    PRIMARY KEY (rater, place)
);
CREATE TABLE IF NOT EXISTS votes (
    rater TEXT NOT NULL, place INTEGER NOT NULL, dimension TEXT NOT NULL, winner TEXT NOT NULL,
    seconds_a REAL NOT NULL, seconds_b REAL NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (rater, place, dimension), FOREIGN KEY (rater, place) REFERENCES shown
);
"""
WAIT_S = 30.0
"""How long a write waits for another rater's."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a rater is shown next. left: the pair's side that stands on the left."""

    number: int
    total: int
    pair: Pair
    left: Side


class Votes:
    """The votes of a study. Any thread may use it; a vote that a method returned from is on the disk."""

    def __init__(self, folder: Path, study: Study) -> None:
        self.study = study
        self._pairs = {pair.id: pair for pair in study.pairs}
        self._path = folder / VOTES_DB
        with self._open() as database:
            database.executescript(TABLES)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each call; what is written is written whole, or not at all."""
        database = sqlite3.connect(self._path, timeout=WAIT_S, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.execute("PRAGMA foreign_keys=ON")
            yield database
        finally:
            database.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    def rater_of(self, token: str) -> str:
        """How a rater is known here: neither token nor name can be had from it."""
        return hashlib.sha256(f"{self.study.salt}\n{token}".encode()).hexdigest()[:32]

    def join(self, token: str, name: str = "") -> str:
        """Takes a rater in, and settles what is shown to them; once. The hashed rater."""
        rater = self.rater_of(token)
        hashed = self.rater_of(f"name\n{name.strip().lower()}") if name.strip() else None
        with self._writing() as database:
            if database.execute("SELECT 1 FROM raters WHERE rater = ?", (rater,)).fetchone() is None:
                database.execute("INSERT INTO raters VALUES (?, ?, ?)", (rater, time.time(), hashed))
                rows = self._settled(database, rater)
                database.executemany("INSERT INTO shown VALUES (?, ?, ?, ?)", rows)
        return rater

    def _settled(self, database: sqlite3.Connection, rater: str) -> list[tuple[str, int, str, Side]]:
        """The pairs that fewest raters were given, so that votes spread evenly however many raters come; in an order
        of the rater's own, the checks among them, each side as often on the left as on the right."""
        drawn = random.Random(f"{self.study.seed}/{rater}")
        given: dict[str, int] = dict(database.execute("SELECT pair, COUNT(*) FROM shown GROUP BY pair").fetchall())

        def fewest(pairs: tuple[Pair, ...], count: int) -> list[str]:
            ids = [pair.id for pair in pairs]
            drawn.shuffle(ids)
            return sorted(ids, key=lambda one: given.get(one, 0))[:count]

        ids = fewest(self.study.judged, self.study.per_rater)
        drawn.shuffle(ids)
        for check in fewest(self.study.checks, self.study.checks_per_rater):
            # not the first: a rater learns what is asked by it
            ids.insert(drawn.randint(min(1, len(ids)), len(ids)), check)
        sides: list[Side] = [("a", "b")[k % 2] for k in range(len(ids))]  # type: ignore[misc]
        drawn.shuffle(sides)
        return [(rater, place, pair, side) for place, (pair, side) in enumerate(zip(ids, sides, strict=True))]

    def known(self, rater: str) -> bool:
        with self._open() as database:
            return database.execute("SELECT 1 FROM raters WHERE rater = ?", (rater,)).fetchone() is not None

    def next(self, rater: str) -> Place | int:
        """What a rater is shown next; the number of pairs where they are through."""
        with self._open() as database:
            total = database.execute("SELECT COUNT(*) FROM shown WHERE rater = ?", (rater,)).fetchone()[0]
            row = database.execute(
                "SELECT place, pair, left_side FROM shown WHERE rater = ? AND place NOT IN"
                " (SELECT place FROM votes WHERE rater = ?) ORDER BY place LIMIT 1", (rater, rater),
            ).fetchone()  # fmt: skip
        return total if row is None else Place(row[0], total, self._pairs[row[1]], row[2])

    def left_of(self, rater: str, place: int) -> Side:
        """The pair's side that stood on the left. UserError for a place that the rater was not shown."""
        with self._open() as database:
            row = database.execute(
                "SELECT left_side FROM shown WHERE rater = ? AND place = ?", (rater, place)
            ).fetchone()
        if row is None:
            raise UserError(f"this rater was not shown a pair number {place}")
        return row[0]

    def vote(self, rater: str, place: int, winners: Mapping[Dimension, Winner], seconds: tuple[float, float]) -> bool:
        """Writes a rater's answers about a place; False where they were given before, which count.

        seconds: that sides a and b were played. UserError for a place that the rater was not shown, or a dimension
        that is missing.
        """
        if set(winners) != set(DIMENSIONS):
            raise UserError(f"an answer is needed about each of {', '.join(DIMENSIONS)}")
        with self._writing() as database:
            there = database.execute("SELECT 1 FROM shown WHERE rater = ? AND place = ?", (rater, place)).fetchone()
            if there is None:
                raise UserError(f"this rater was not shown a pair number {place}")
            before = database.execute("SELECT 1 FROM votes WHERE rater = ? AND place = ?", (rater, place)).fetchone()
            if before is not None:
                return False
            now = time.time()
            database.executemany(
                "INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(rater, place, dimension, winners[dimension], *seconds, now) for dimension in DIMENSIONS],
            )
        return True

    def all(self) -> list[Vote]:
        """Every vote, in the order in which they came; also while the study goes on."""
        with self._open() as database:
            rows = database.execute(
                "SELECT v.rater, v.dimension, v.winner, v.seconds_a, v.seconds_b, v.time, s.pair, s.left_side"
                " FROM votes v JOIN shown s USING (rater, place) ORDER BY v.time, v.rater, v.place, v.rowid"
            ).fetchall()
        found: list[Vote] = []
        for rater, dimension, winner, seconds_a, seconds_b, at, name, left in rows:
            pair = self._pairs[name]
            found.append(
                Vote(
                    study=self.study.name, prompt_set=self.study.prompt_set, prompt=pair.prompt, dimension=dimension,
                    a=pair.a.model, b=pair.b.model, a_sha256=pair.a.sha256, b_sha256=pair.b.sha256, left=left,
                    winner=winner, rater=rater, seconds_a=seconds_a, seconds_b=seconds_b, time=at, check=pair.check,
                )
            )  # fmt: skip
        return found

    def progress(self) -> tuple[int, int, int]:
        """Raters, pairs that were voted on, pairs that they were shown in all."""
        with self._open() as database:
            raters = database.execute("SELECT COUNT(*) FROM raters").fetchone()[0]
            done = database.execute("SELECT COUNT(*) FROM (SELECT DISTINCT rater, place FROM votes)").fetchone()[0]
            return raters, done, database.execute("SELECT COUNT(*) FROM shown").fetchone()[0]


def write_votes(votes: list[Vote], path: Path) -> None:
    """Writes votes as JSONL, whole or not at all."""
    lines = [json.dumps(vote.model_dump(mode="json", exclude_none=True), sort_keys=True) for vote in votes]
    atomic_write_text(path, "".join(f"{line}\n" for line in lines))
