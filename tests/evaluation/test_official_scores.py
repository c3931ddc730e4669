"""All scores on the competition's tasks, by its own rules, with interval and null."""

import numpy as np
import pandas as pd
import pytest

from gengap.evaluation import baselines
from gengap.evaluation.judgement import judged
from gengap.evaluation.scores import SCORES
from gengap.evaluation.tasks import official_task

OFFICIAL = ("cmi", "kendall_tau", "granulated_tau", "pearson")


@pytest.fixture(autouse=True)
def small_forests(monkeypatch):
    monkeypatch.setattr(baselines, "TREES", 3)


def scored(index, measures, scores=OFFICIAL, **options):
    values = pd.DataFrame(measures, index=pd.Index(index["model_id"]))
    rows = judged(values, index, scores=scores, task=official_task, **options)
    return rows.set_index(["measure", "score"]).loc[list(measures)]


def test_each_score_has_its_value_an_interval_around_it_and_a_null(task):
    index, measures = task
    rows, prepared = scored(index, measures, samples=50, permutations=99), official_task(index)
    assert len(rows) == 6 * len(OFFICIAL)
    for measure in ("perfect", "residual", "depth", "random"):
        for name in OFFICIAL:
            row = rows.loc[(measure, name)]
            expected = SCORES[name].score(measures[measure], prepared)
            assert row["value"] == pytest.approx(expected, abs=1e-12)
            # A ratio of entropies may round to a little more than 1.
            assert row["low"] - 1e-9 <= row["value"] <= row["high"] + 1e-9
            assert row["low"] >= -1 - 1e-9 and row["high"] <= 1 + 1e-9
            assert row["null_05"] <= row["null_mean"] <= row["null_95"]
    assert (rows.loc["perfect", "p_value"] == 0.01).all()  # no permutation of 99 does as well
    assert (rows.loc["random", "p_value"] > 0.05).all()
    assert rows.loc["perfect", "value"].to_numpy(float) == pytest.approx([1] * 4, abs=0.05)


def test_the_null_of_a_measure_with_ties_is_that_of_its_own_permutations(task):
    index, measures = task
    rows = scored(index, {"depth": measures["depth"]}, samples=2, permutations=400)
    generator = np.random.default_rng(9)
    shuffled = np.array([generator.permutation(measures["depth"]) for _ in range(2000)])
    for name in OFFICIAL:
        own, row = SCORES[name].score(shuffled, official_task(index)), rows.loc[("depth", name)]
        assert row["null_mean"] == pytest.approx(own.mean(), abs=4 * own.std() / 20)
        assert row["null_95"] == pytest.approx(np.quantile(own, 0.95), abs=0.5 * own.std())


def test_a_grid_with_a_hole_has_no_score_of_the_competition_and_says_where(task):
    index, measures = task
    rows = scored(index, measures, samples=2, permutations=2)
    assert (rows.loc["holed", "models"] == 35).all()
    missing = rows.loc[("holed", "cmi")]
    assert np.isnan(missing["value"]) and np.isnan(missing["p_value"])
    assert "each of the 36 points of the grid; there are 0 at 0 = 0, " in missing["note"]
    assert rows.loc[("holed", "kendall_tau"), "value"] == pytest.approx(1)


def test_a_constant_measure_tells_nothing_and_has_no_straight_line(task):
    index, measures = task
    rows = scored(index, measures, samples=2, permutations=2).loc["constant"]
    assert rows.loc[["cmi", "kendall_tau", "granulated_tau"], "value"].tolist() == [0, 0, 0]
    assert rows.loc["cmi", "p_value"] == 1
    assert np.isnan(rows.loc["pearson", "value"])
    assert set(rows["note"]) == {"the measure is constant here"}


@pytest.mark.parametrize("share", [0.0, 0.6, 0.9])
def test_intervals_of_the_competitions_score_hold_what_other_trainings_score(
    share, task_index, effects
):
    # The true value is the mean score over trainings of the same grid; a strong, a middling and a
    # random measure. Nominally 95 %: of 40 intervals fewer than 34 would be a chance of 1 in 60.
    generator, rows = np.random.default_rng(0), []
    for _ in range(40):
        gap = effects(task_index(np.zeros(36))) + 0.1 * generator.normal(size=36)
        noise = 0.1 * generator.normal(size=36)
        measures = {"one": share * gap + (1 - share) * noise}
        found = scored(task_index(gap), measures, scores=["cmi"], samples=60, permutations=1)
        rows.append(found.iloc[0])
    rows = pd.DataFrame(rows)
    held = ((rows["low"] <= rows["value"].mean()) & (rows["value"].mean() <= rows["high"])).sum()
    assert held >= 34
    assert (rows["high"] - rows["low"]).median() < 8 * rows["value"].std()
