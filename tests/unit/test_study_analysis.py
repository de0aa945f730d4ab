"""What votes say, by hand and from known strengths."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest
from study_kit import vote

from ovikit.errors import UserError
from ovikit.study.analysis import analyse, rate
from ovikit.study.records import Vote


def test_counts_and_rates_by_hand():
    votes = [
        vote("a", "p1", "r1"), vote("a", "p1", "r2"), vote("b", "p2", "r1"), vote("tie", "p2", "r2"),
        vote("both_bad", "p3", "r1"), vote("a", "p3", "r2"),
        vote("b", "p4", "r1", a="y", b="x"),  # the same two models the other way round
    ]  # fmt: skip
    [duel] = analyse(votes).duels
    assert (duel.model, duel.other, duel.votes, duel.prompts) == ("x", "y", 7, 4)
    assert (duel.win, duel.tie, duel.both_bad, duel.loss) == (4, 1, 1, 1)
    assert duel.with_ties.value == pytest.approx(5 / 7)
    assert duel.without_ties.value == pytest.approx(4 / 5)
    low, high = duel.with_ties.interval
    assert low < 5 / 7 < high


def test_intervals_draw_prompts_with_all_their_votes():
    """Ten votes about each of eight prompts that agree within a prompt are worth eight votes, not eighty."""
    wins = np.array([10, 10, 10, 10, 0, 0, 0, 0], dtype=float)
    clustered = rate(wins, np.full(8, 10.0)).interval
    single = rate(np.repeat(wins / 10, 10), np.ones(80)).interval
    assert clustered[1] - clustered[0] == pytest.approx(2 * 1.96 * (0.25 / 8) ** 0.5, rel=0.1)
    assert single[1] - single[0] == pytest.approx(2 * 1.96 * (0.25 / 80) ** 0.5, rel=0.1)
    assert rate(np.array([3.0]), np.array([4.0])).interval is None
    assert rate(np.array([0.0]), np.array([0.0])).value is None


def test_raters_who_fail_checks_are_left_out_unless_they_are_kept():
    def checks(rater: str, muted: str, shifted: str) -> list[Vote]:
        return [
            vote(muted, "c1", rater, "x", "x", dimension="audio", check="muted"),
            vote("tie", "c1", rater, "x", "x", dimension="video", check="muted"),  # not asked of it
            vote(shifted, "c2", rater, "x", "x", dimension="sync", check="shifted"),
        ]

    votes = [
        vote("a", "p1", "good"), vote("a", "p2", "good"), *checks("good", "a", "a"),
        vote("b", "p1", "poor"), vote("b", "p2", "poor"), *checks("poor", "a", "tie"),
        vote("b", "p1", "new"), vote("a", "p2", "new"),
    ]  # fmt: skip
    found = analyse(votes)
    assert {one.rater: (one.votes, one.checks, one.failed, one.left_out) for one in found.raters} == {
        "good": (2, 2, 0, False), "poor": (2, 2, 1, True), "new": (2, 0, 0, False),
    }  # fmt: skip
    assert (found.duels[0].win, found.duels[0].loss) == (3, 1)
    kept = analyse(votes, keep_failed=True)
    assert (kept.duels[0].win, kept.duels[0].loss) == (3, 3)


def test_left_wins_and_agreement_by_hand():
    votes = [
        vote("a", "p1", "r1", left="a"), vote("a", "p1", "r2", left="b"), vote("b", "p2", "r1", left="b"),
        vote("b", "p2", "r2", left="a"), vote("tie", "p3", "r1", left="a"), vote("a", "p3", "r2", left="a"),
    ]  # fmt: skip
    found = analyse(votes)
    assert found.left_wins.value == pytest.approx(3 / 5)
    overall = next(one for one in found.agreement if one.dimension == "overall")
    # Krippendorff, nominal, two raters, three units: disagreement 2/6 seen; values a a a b b t: 22/30 expected.
    assert overall.alpha == pytest.approx(1 - (2 / 6) / (22 / 30))
    assert overall.pairs == 3


def test_a_line_that_comes_again_counts_once():
    votes = [vote("a", "p1"), vote("a", "p1"), vote("b", "p1"), vote("a", "p1", a="y", b="x"), vote("b", "p2")]
    [duel] = analyse(votes).duels
    assert (duel.votes, duel.win, duel.loss) == (2, 1, 1)


def test_nothing_to_count_and_several_studies_are_told():
    with pytest.raises(UserError, match="no vote to count"):
        analyse([])
    with pytest.raises(UserError, match="several studies: other, s"):
        analyse([vote("a"), vote("a").model_copy(update={"study": "other"})])


STRENGTHS = {"w": 0.4, "x": 0.3, "y": 0.2, "z": 0.1}


def simulated(count: int, seed: int, ties: float) -> list[Vote]:
    """Votes of raters who prefer each model in proportion to its strength, with ties; sides are shuffled."""
    drawn = random.Random(seed)
    places = [(*pair, f"p{p}", f"r{r}") for pair in combinations(STRENGTHS, 2) for p in range(100) for r in range(40)]
    votes = []
    for a, b, prompt, rater in drawn.sample(places, count):
        wins = drawn.random() < STRENGTHS[a] / (STRENGTHS[a] + STRENGTHS[b])
        winner = "tie" if drawn.random() < ties else "a" if wins else "b"
        left = drawn.choice(("a", "b"))
        votes.append(vote(winner, prompt, rater, a, b, left))
    return votes


def test_five_thousand_votes_recover_the_order_and_the_intervals_cover():
    found = analyse(simulated(5000, 3, ties=0.0))
    overall = [one for one in found.strengths if one.dimension == "overall"]
    assert [one.model for one in sorted(overall, key=lambda one: -one.strength)] == ["w", "x", "y", "z"]
    assert sum(one.strength for one in overall) == pytest.approx(1)
    shares = [(one.interval, STRENGTHS[one.model]) for one in overall]
    rates = [
        (duel.without_ties.interval, STRENGTHS[duel.model] / (STRENGTHS[duel.model] + STRENGTHS[duel.other]))
        for duel in found.duels
    ]
    # Of ten intervals that each cover in 95 of 100 studies, eight at least in this one.
    assert sum(low < true < high for (low, high), true in shares + rates) >= 8
    for duel in analyse(simulated(5000, 3, ties=0.2)).duels:
        assert duel.tie
        assert duel.win + duel.tie + duel.both_bad + duel.loss == duel.votes
    assert found.left_wins.interval[0] < 0.5 < found.left_wins.interval[1]
    assert sum(duel.votes for duel in found.duels) == found.votes == 5000


def test_intervals_cover_as_often_as_they_say():
    """Of 60 studies of 300 votes, 95 % intervals of a win rate of 2/3 cover it in 50 at least (p < 1e-4)."""
    covered = 0
    for seed in range(60):
        drawn = random.Random(seed)
        votes = [
            vote("a" if drawn.random() < 2 / 3 else "b", f"p{k % 50}", f"r{k % 9}") for k in range(300)
        ]  # fmt: skip
        table = np.array(
            [[sum(v.winner == "a" for v in votes if v.prompt == f"p{k}"), 6] for k in range(50)], dtype=float
        )
        low, high = rate(table[:, 0], table[:, 1]).interval
        covered += low <= 2 / 3 <= high
    assert covered >= 50
