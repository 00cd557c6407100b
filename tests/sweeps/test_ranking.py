from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discern.runs.state import State
from discern.sweeps.ranking import (
    best_group,
    best_job,
    best_row,
    group_by,
    group_rows,
    has_parts,
    has_seeds,
    is_geometric,
    listed_rows,
    rank_groups,
    rank_rows,
    repetitions,
    settings,
    steps_of,
    varied,
    verdict,
)
from discern.sweeps.rows import Objective, Row

LOSS = Objective("val/loss", "minimize")
ACCURACY = Objective("val/accuracy", "maximize")


def job(number, loss=None, accuracy=None, state=State.DONE, **overrides) -> Row:
    values = {"val/loss": loss, "val/accuracy": accuracy}
    return Row(number, Path(f"{number}"), overrides, state, values, 10, 2.5)


def ranks(ranked) -> list[tuple[int | None, int]]:
    return [(rank, row.number) for rank, row in ranked]


@pytest.mark.parametrize(
    ("objective", "order"), [(LOSS, [(1, 1), (2, 0), (3, 2)]), (ACCURACY, [(1, 2), (2, 0), (3, 1)])]
)
def test_the_best_job_is_first_in_either_direction(objective, order):
    rows = [job(n, value, value) for n, value in enumerate((0.5, 0.2, 0.9))]
    assert ranks(rank_rows(rows, [objective])) == order
    assert best_row(rows, [objective]) is rows[order[0][1]]


def test_ties_share_a_rank_and_are_in_order_of_number():
    rows = [job(3, 0.1), job(2, 0.5), job(1, 0.1), job(0, 0.7)]
    assert ranks(rank_rows(rows, [LOSS])) == [(1, 1), (1, 3), (3, 2), (4, 0)]


def test_pruned_jobs_come_after_done_ones_and_those_without_a_value_last():
    rows = [
        job(0, state=State.FAILED),
        job(1, 0.1, state=State.PRUNED),
        job(2, 0.9),
        job(3, state=State.WAITING),
        job(4, 0.2, state=State.INTERRUPTED),
        job(5),
        job(6, float("inf")),
        job(7, state=State.PRUNED),
        job(8, 0.1, state=State.PRUNED),
        job(9, 0.8, state=State.FAILED),
    ]
    found = ranks(rank_rows(rows[::-1], [LOSS]))
    assert found == [(1, 2), (2, 1), (2, 8), *((None, n) for n in (0, 3, 4, 5, 6, 7, 9))]


def test_of_several_objectives_the_fronts_are_ranked():
    points = [(0.1, 0.5), (0.2, 0.9), (0.2, 0.8), (0.3, 0.85), (0.4, 0.1), (0.1, 0.5)]
    rows = [job(n, *point) for n, point in enumerate(points)]
    rows += [job(6, 0.0), job(7, 0.0, 1.0, State.PRUNED)]
    found = ranks(rank_rows(rows, [LOSS, ACCURACY]))
    assert found == [(1, 0), (1, 5), (1, 1), (2, 2), (2, 3), (3, 4), (4, 7), (None, 6)]


@pytest.mark.parametrize("objectives", [[LOSS], [LOSS, ACCURACY]])
def test_of_nothing_there_is_no_best(objectives):
    assert rank_rows([], objectives) == []
    assert best_row([], objectives) is None
    assert best_row([job(0, state=State.FAILED)], objectives) is None
    assert best_group([], objectives) is None
    assert group_rows([], objectives) == []


values = st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(-10, 10))
jobs = st.lists(st.tuples(values, values, st.sampled_from(list(State))), max_size=12)


@given(
    jobs, st.sampled_from([[LOSS], [ACCURACY], [LOSS, ACCURACY], [ACCURACY, LOSS]]), st.randoms()
)
def test_a_ranking_is_an_order_of_all_jobs_that_nothing_better_breaks(made, objectives, random):
    rows = [job(n, *one) for n, one in enumerate(made)]
    ranked = rank_rows(rows, objectives)
    assert sorted(row.number for _, row in ranked) == list(range(len(rows)))
    shuffled = random.sample(rows, len(rows))
    assert rank_rows(shuffled, objectives) == ranked
    found = [rank for rank, _ in ranked]
    with_rank = [rank for rank in found if rank is not None]
    assert found == sorted(with_rank) + [None] * (len(found) - len(with_rank))
    assert with_rank[:1] in ([], [1])
    for rank, row in ranked:
        for other_rank, other in ranked:
            if None in (rank, other_rank) or row.state != other.state:
                continue
            better = [o.sign * (row.values[o.metric] - other.values[o.metric]) for o in objectives]
            if all(b <= 0 for b in better) and any(b < 0 for b in better):
                assert rank < other_rank


def test_settings_are_those_that_differ_and_all_of_a_single_job():
    rows = [job(0, lr="1", model="a"), job(1, lr="2", model="a"), job(2, lr="2", model="a", x="1")]
    assert settings(rows) == ["lr", "x"]
    assert settings(rows[:1]) == ["lr", "model"]
    assert settings([]) == []


def seeded(**losses) -> list[Row]:
    """Jobs with losses of seeds 0, 1, …, a setting ``lr`` each; None failed."""
    rows = []
    for name, of_seeds in losses.items():
        for seed, loss in enumerate(of_seeds):
            state = State.FAILED if loss is None else State.DONE
            rows.append(job(len(rows), loss, loss, state, lr=name, seed=str(seed)))
    return rows


def test_jobs_that_differ_in_the_seed_alone_are_a_group():
    rows = seeded(a=(0.1, 0.2, 0.3), b=(0.5, None, 0.7), c=(None, None, None))
    assert has_seeds(rows)
    a, b, c = group_rows(rows, [LOSS])
    assert [group.overrides for group in (a, b, c)] == [{"lr": "a"}, {"lr": "b"}, {"lr": "c"}]
    assert a.rows == tuple(rows[:3])
    assert a.spreads["val/loss"].n == 3
    assert a.spreads["val/loss"].mean == pytest.approx(0.2)
    assert a.spreads["val/loss"].sd == pytest.approx(0.1)
    assert (a.epochs, a.seconds, a.states) == (10, 7.5, {State.DONE: 3})
    assert (b.spreads["val/loss"].n, b.states[State.FAILED], c.states[State.FAILED]) == (2, 1, 3)
    assert (c.spreads["val/loss"].mean, c.spreads["val/loss"].sd) == (None, None)
    assert rank_groups([c, b, a], [LOSS]) == [(1, a), (2, b), (None, c)]
    worse = Objective("val/loss", "maximize")
    assert rank_groups([c, b, a], [worse]) == [(1, b), (2, a), (None, c)]


def test_a_single_value_has_no_standard_deviation():
    (group,) = group_rows([job(0, 0.5, seed="0")], [LOSS])
    assert not has_seeds(group.rows)
    assert (group.spreads["val/loss"].mean, group.spreads["val/loss"].sd) == (0.5, None)


def test_a_group_counts_its_pruned_jobs_and_comes_last_if_it_has_no_others():
    rows = seeded(a=(0.1, 0.2), b=(0.5, 0.6))
    rows[0] = job(0, 0.9, state=State.PRUNED, lr="a", seed="0")
    a, b = group_rows(rows, [LOSS])
    assert a.spreads["val/loss"].mean == pytest.approx(0.55)
    assert a.states == {State.DONE: 1, State.PRUNED: 1}
    rows[1] = job(1, 0.1, state=State.PRUNED, lr="a", seed="1")
    a, b = group_rows(rows, [LOSS])
    assert rank_groups([a, b], [LOSS]) == [(1, b), (2, a)]


def test_groups_of_several_objectives_are_ranked_by_fronts():
    rows = [job(0, 0.1, 0.1, a="1"), job(1, 0.2, 0.9, a="2"), job(2, 0.3, 0.8, a="3")]
    groups = group_rows(rows, [LOSS, ACCURACY])
    assert [rank for rank, _ in rank_groups(groups, [LOSS, ACCURACY])] == [1, 1, 2]


def test_jobs_may_be_grouped_by_any_settings():
    rows = [job(n, n / 10, a=a, b=b) for n, (a, b) in enumerate(("xu", "xv", "yu"))]
    assert [len(group.rows) for group in group_by(rows, [LOSS], ["a"])] == [2, 1]
    assert [len(group.rows) for group in group_by(rows, [LOSS], [])] == [3]


def judged(objective=LOSS, **losses) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return verdict(group_rows(seeded(**losses), [objective]), objective)


def test_a_lead_within_the_noise_is_not_distinguishable():
    # With two degrees of freedom p = 1 - t / sqrt(2 + t²), and t is 1.9868.
    sentence = judged(a=(0.10, 0.20, 0.30), b=(0.20, 0.22, 0.33))
    assert sentence == (
        "lr=a (0.2) leads lr=b (0.25) in val/loss: "
        "not distinguishable (paired t-test over 3 seeds, p = 0.19)."
    )


def test_a_lead_that_each_seed_shows_is_more_than_noise():
    # The seeds differ by more than the settings; paired, that does not matter.
    losses = {"a": (0.1, 0.5, 0.9), "b": (0.2, 0.61, 0.99)}
    sentence = judged(**losses)
    assert sentence.startswith("lr=a (0.5) leads lr=b (0.6) in val/loss: more than noise")
    assert sentence.endswith("(paired t-test over 3 seeds, p = 0.0033).")
    assert judged(ACCURACY, **losses).startswith(
        "lr=b (0.6) leads lr=a (0.5) in val/accuracy: more"
    )


@pytest.mark.parametrize(
    ("losses", "common"),
    [
        ({"a": (0.1,), "b": (0.2,)}, 1),
        ({"a": (0.1, 0.1, None), "b": (None, 0.2, 0.2)}, 1),
        ({"a": (0.1, None), "b": (None, 0.2)}, 0),
    ],
)
def test_fewer_than_two_common_seeds_are_too_few(losses, common):
    sentence = judged(**losses)
    assert sentence.endswith(
        f": not distinguishable (too few seeds: both have {common}, a t-test needs 2)."
    )


def test_jobs_without_seeds_have_one_each():
    rows = [job(0, 0.1, lr="a"), job(1, 0.2, lr="b")]
    assert "too few seeds: both have 1" in verdict(group_rows(rows, [LOSS]), LOSS)


def test_equal_groups_are_level():
    assert judged(a=(0.1, 0.2), b=(0.1, 0.2)) == (
        "lr=a and lr=b are level in val/loss (0.15): "
        "not distinguishable (equal with each of 2 seeds)."
    )


@pytest.mark.parametrize(
    ("seeds", "judgement", "chance"),
    [
        (2, "not distinguishable", "p = 0.5"),
        (5, "not distinguishable", "p = 0.062"),
        (6, "more than noise", "p = 0.031"),
        (11, "more than noise", "p < 0.001"),
    ],
)
def test_the_same_difference_with_each_seed_is_left_to_the_sign_test(seeds, judgement, chance):
    # 0.3 - 0.2 and 0.2 - 0.1 differ in their last bit.
    ours = [seed / 10 for seed in range(seeds)]
    sentence = judged(a=ours, b=[loss + 0.1 for loss in ours])
    test = f"the same difference with each, sign test over {seeds} seeds, {chance}"
    assert sentence.endswith(f": {judgement} ({test}).")


def test_settings_that_do_nothing_are_rarely_told_apart_by_two_seeds():
    # Accuracies are multiples of 1 / 100: the differences of two seeds are often equal.
    random = np.random.default_rng(0)
    pairs = random.binomial(100, 0.97, (1000, 2, 2)) / 100
    told = [judged(ACCURACY, a=a.tolist(), b=b.tolist()) for a, b in pairs]
    assert sum("more than noise" in sentence for sentence in told) <= 50


def test_a_lead_that_the_common_seeds_contradict_is_not_trusted():
    sentence = judged(a=(0.5, 0.51, 0.53, 0.0), b=(0.4, 0.42, 0.425, None))
    assert "lr=a (0.385) leads lr=b" in sentence
    assert ": not to be trusted, it is behind with the seeds that both have (" in sentence


def test_pruned_jobs_are_no_evidence():
    rows = seeded(a=(0.1, 0.2, 0.3), b=(0.2, 0.31, 0.4))
    rows[5] = job(5, 9.0, state=State.PRUNED, lr="b", seed="2")
    assert "over 2 seeds" in verdict(group_rows(rows, [LOSS]), LOSS)


def test_with_nothing_to_compare_it_says_so():
    assert judged() == "No job has a value of val/loss."
    assert judged(a=(None, None)) == "No job has a value of val/loss."
    assert judged(a=(0.1, 0.2), b=(None, None)) == (
        "Only lr=a has a value of val/loss: nothing to compare it with."
    )
    assert judged(a=(0.1, 0.2)).startswith("Only one group of jobs has a value")


# Folds


def folded(**losses) -> list[Row]:
    """Jobs with losses of folds 0, 1, …, a setting ``lr`` each; None failed."""
    return [
        replace(row, overrides={"lr": row.overrides["lr"], "data.fold": row.overrides["seed"]})
        for row in seeded(**losses)
    ]


def test_folds_of_a_setting_are_one_estimate_and_have_its_rank():
    rows = folded(a=(0.5, 0.6), b=(0.1, 0.9), c=(0.2, 0.3))
    assert (has_parts(rows), has_seeds(rows), repetitions(rows)) == (True, False, "folds")
    assert varied(rows) == ["lr"]
    ranks = [(rank, row.overrides["lr"], row.overrides["data.fold"])
             for rank, row in listed_rows(rows, [LOSS])]  # fmt: skip
    assert ranks == [
        (1, "c", "0"), (1, "c", "1"), (2, "b", "0"), (2, "b", "1"), (3, "a", "0"), (3, "a", "1"),
    ]  # fmt: skip


def test_folds_alone_have_no_rank_and_keep_their_order():
    rows = folded(a=(0.5, 0.1, 0.9))
    assert [(rank, row.number) for rank, row in listed_rows(rows, [LOSS])] == [
        (None, 0), (None, 1), (None, 2),
    ]  # fmt: skip


def test_a_mean_that_lacks_folds_says_so_and_leads_nobody():
    rows = folded(a=(0.1, None, 0.2), b=(0.5, 0.6, 0.7))
    a, b = group_rows(rows, [LOSS])
    assert (a.counted("val/loss"), b.counted("val/loss")) == ("2 of 3", "3")
    assert [group for _, group in rank_groups([a, b], [LOSS])] == [b, a]


def test_a_prefix_does_not_hide_a_fold():
    rows = [job(n, n / 10, **{"+data.fold": str(n)}) for n in range(3)]
    assert has_parts(rows)
    assert varied(rows) == []


def test_the_test_over_folds_allows_for_the_images_that_they_share():
    # Nadeau and Bengio's t of k folds: mean / sqrt(var (1 / k + 1 / (k - 1))).
    sentence = judged_folds(a=(0.10, 0.20, 0.30), b=(0.20, 0.22, 0.33))
    t = 1.98680 * math.sqrt(1 / 3) / math.sqrt(1 / 3 + 1 / 2)
    p = 1 - t / math.sqrt(2 + t * t)
    assert f"(corrected paired t-test over 3 folds, p = {p:.2g})" in sentence


def test_the_images_that_folds_share_follow_from_all_folds_not_from_those_that_ran():
    # Three folds of ten: the held-out images are a ninth of those trained on.
    losses = {"a": (0.10, 0.20, 0.30), "b": (0.20, 0.22, 0.33)}
    rows = [replace(row, folds=10) for row in folded(**losses)]
    t = 1.98680 * math.sqrt(1 / 3) / math.sqrt(1 / 3 + 1 / 9)
    p = 1 - t / math.sqrt(2 + t * t)
    sentence = verdict(group_rows(rows, [LOSS]), LOSS)
    assert f"(corrected paired t-test over 3 folds, p = {p:.2g})" in sentence


# Splits


def test_splits_are_repetitions_and_none_is_the_best():
    rows = [job(n, loss, **{"lr": lr, "data.seed": seed})
            for n, (lr, seed, loss) in enumerate(
                [("a", "0", 0.5), ("a", "1", 0.1), ("b", "0", 0.2), ("b", "1", 0.25)])]  # fmt: skip
    assert (has_parts(rows), has_seeds(rows), repetitions(rows)) == (True, False, "splits")
    assert varied(rows) == ["lr"]
    assert best_job(rows, [LOSS]) is None
    assert best_group(rows, [LOSS]).overrides == {"lr": "b"}
    assert [rank for rank, _ in listed_rows(rows[:2], [LOSS])] == [None, None]
    assert "(paired t-test over 2 splits, p = " in verdict(group_rows(rows, [LOSS]), LOSS)


def test_seeds_splits_and_folds_are_paired_with_their_own_kind():
    kinds = ("seed", "data.seed", "data.fold")
    rows = [
        job(n, 0.1 * n + 0.01 * n * n, lr=lr, **dict(zip(kinds, key, strict=True)))
        for n, (lr, *key) in enumerate(itertools.product("ab", "12", "34", "56"))
    ]
    assert repetitions(rows) == "seeds and splits and folds"
    assert "t-test over 8 seeds and splits and folds" in verdict(group_rows(rows, [LOSS]), LOSS)


def judged_folds(**losses) -> str:
    return verdict(group_rows(folded(**losses), [LOSS]), LOSS)


@pytest.mark.parametrize(
    ("values", "geometric"),
    [
        ([0.1, 0.01], True),
        ([0.1, 0.02], False),
        ([16, 32, 64], True),
        ([1, 2, 3, 4], False),
        ([10, 20, 30, 40, 50, 60, 70, 80, 90, 100], False),
        ([0, 1e-4, 1e-3], True),
        ([0, 0.25, 0.5], False),
        ([-1, 10, 100], False),
        ([5], False),
        ([0, 5], False),
        ([], False),
    ],
)
def test_an_axis_is_logarithmic_where_values_are(values, geometric):
    assert is_geometric(values) == geometric


@given(st.floats(1e-6, 1e6), st.floats(2.5, 100), st.integers(3, 9))
def test_geometric_series_are_geometric_and_arithmetic_ones_are_not(start, factor, count):
    assert is_geometric([start * factor**place for place in range(count)])
    assert not is_geometric([start * (1 + (factor - 1) * place) for place in range(count)])


@pytest.mark.parametrize(
    ("texts", "steps", "places"),
    [
        (["0.1", "1e-2", "1e-1"], ["1e-2", "0.1"], [1, 0, 1]),
        (["b", "10", "9"], ["10", "9", "b"], [2, 0, 1]),
        ([], [], []),
    ],
)
def test_values_are_in_order_and_a_number_is_one_however_it_is_typed(texts, steps, places):
    assert steps_of(texts) == (steps, places)
