"""Votes on disk: counted once, spread evenly, the same for the same link."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest
from study_kit import all_of, pair, paper_study

from ovikit.errors import UserError
from ovikit.study.records import Study, read_votes
from ovikit.study.votes import Place, Votes, write_votes


def some(prompts: int = 6, per_rater: int = 4, checks: int = 2) -> Study:
    pairs = [pair(k, f"p{k}", "x", "y") for k in range(prompts)]
    spoiled = [pair(k, f"p{k}", "x", "x", kind) for k, kind in enumerate(("muted", "shifted"))]
    return paper_study([*pairs, *spoiled], per_rater, checks)


def through(votes: Votes, rater: str, winner: str = "a") -> list[Place]:
    """Answers everything that a rater is shown."""
    seen: list[Place] = []
    while isinstance(place := votes.next(rater), Place):
        seen.append(place)
        assert votes.vote(rater, place.number, all_of(winner), (1.0, 2.0))
    return seen


def test_a_rater_sees_each_pair_once_with_the_checks_among_them(tmp_path: Path):
    votes = Votes(tmp_path, some())
    seen = through(votes, votes.join("token"))
    assert [place.number for place in seen] == list(range(6))
    assert len({place.pair.id for place in seen}) == 6
    assert sum(place.pair.check is not None for place in seen) == 2
    assert seen[0].pair.check is None
    assert Counter(place.left for place in seen) == {"a": 3, "b": 3}
    assert votes.next(votes.rater_of("token")) == 6


def test_the_same_link_goes_on_where_it_was(tmp_path: Path):
    votes = Votes(tmp_path, some())
    rater = votes.join("token")
    first = votes.next(rater)
    assert votes.next(rater) == first
    assert votes.join("token") == rater
    assert Votes(tmp_path, some()).next(rater) == first
    assert isinstance(first, Place)
    votes.vote(rater, first.number, all_of("tie"), (0.0, 0.0))
    second = Votes(tmp_path, some()).next(rater)
    assert isinstance(second, Place)
    assert second.number == 1


def test_pairs_are_spread_evenly_over_raters(tmp_path: Path):
    study = paper_study([pair(k, f"p{k}", "x", "y") for k in range(10)], per_rater=3)
    votes = Votes(tmp_path, study)
    counts: Counter[str] = Counter()
    for k in range(20):
        counts.update(place.pair.id for place in through(votes, votes.join(f"token{k}")))
    assert set(counts.values()) == {6}
    lefts = Counter(vote.left for vote in votes.all())
    assert abs(lefts["a"] - lefts["b"]) / sum(lefts.values()) <= 1 / 3


def test_an_answer_counts_once_and_the_first_one(tmp_path: Path):
    votes = Votes(tmp_path, some())
    rater = votes.join("token")
    assert votes.vote(rater, 0, all_of("a"), (1.0, 1.0))
    assert not votes.vote(rater, 0, all_of("a"), (1.0, 1.0))
    assert not votes.vote(rater, 0, all_of("b"), (1.0, 1.0))
    assert [one.winner for one in votes.all()] == ["a"] * 4


def test_many_at_once_lose_nothing_and_count_nothing_twice(tmp_path: Path):
    votes = Votes(tmp_path, some(per_rater=6))
    counted: list[bool] = []

    def rate(token: str) -> None:
        rater = votes.join(token)
        while isinstance(place := votes.next(rater), Place):
            counted.append(votes.vote(rater, place.number, all_of("b"), (1.0, 1.0)))

    # Two windows of each of six raters.
    threads = [threading.Thread(target=rate, args=(f"token{k // 2}",)) for k in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counted) == 6 * 8
    assert Counter((one.rater, one.prompt, one.dimension, one.check) for one in votes.all()).most_common(1)[0][1] == 1
    assert votes.progress() == (6, 48, 48)


def test_what_was_not_shown_or_is_not_whole_is_refused(tmp_path: Path):
    votes = Votes(tmp_path, some())
    rater = votes.join("token")
    with pytest.raises(UserError, match="not shown a pair number 99"):
        votes.vote(rater, 99, all_of("a"), (1.0, 1.0))
    with pytest.raises(UserError, match="an answer is needed about each"):
        votes.vote(rater, 0, {"audio": "a"}, (1.0, 1.0))
    assert votes.all() == []
    assert not votes.known(votes.rater_of("another"))


def test_names_are_hashed_and_votes_come_back_from_their_file(tmp_path: Path):
    votes = Votes(tmp_path, some())
    through(votes, votes.join("secret-token", "Ada Lovelace"))
    write_votes(votes.all(), tmp_path / "votes.jsonl")
    assert read_votes(tmp_path / "votes.jsonl") == votes.all()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"Lovelace" not in kept
    assert b"secret-token" not in kept


@pytest.mark.parametrize(
    ("line", "told"),
    [("{", "votes.jsonl:2: the line: Invalid JSON"), ('{"study": "s"}', "votes.jsonl:2: prompt_set: Field required")],
)
def test_a_line_that_is_no_vote_is_told_with_its_number(tmp_path: Path, line: str, told: str):
    votes = Votes(tmp_path, some())
    rater = votes.join("token")
    votes.vote(rater, 0, all_of("a"), (1.0, 1.0))
    write_votes(votes.all()[:1], tmp_path / "votes.jsonl")
    with (tmp_path / "votes.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError) as error:
        read_votes(tmp_path / "votes.jsonl")
    assert told in str(error.value)
