"""The baselines, and what measures add to that of the hyper-parameters."""

import numpy as np
import pandas as pd
import pytest

from gengap.evaluation import baselines as module
from gengap.evaluation.baselines import added_value_table, hyperparameters_alone, main_effects
from gengap.evaluation.regression import folds_of, out_of_fold, r2
from gengap.evaluation.scores import cmi, plain_tau
from gengap.evaluation.tasks import gap_of, official_task


@pytest.fixture(autouse=True)
def small_forests(monkeypatch):
    monkeypatch.setattr(module, "TREES", 10)


@pytest.fixture
def judged(task):
    """A task whose gap is main effects and noise, and measures of it, by model_id."""
    index, measures = task
    return index, pd.DataFrame(measures, index=pd.Index(index["model_id"]))


def test_the_baseline_foretells_main_effects_without_error(task_index, effects):
    index = task_index(effects(task_index(np.zeros(36))))
    gap = gap_of(index).to_numpy()
    assert hyperparameters_alone(index) == pytest.approx(gap, abs=1e-12)
    assert cmi(gap.round(12), official_task(index)) > 0.99


def test_the_baseline_is_the_best_of_its_fits_by_squared_error(task_index):
    generator = np.random.default_rng(0)
    first, second, third = generator.normal(size=(3, 3)), generator.normal(size=2), 0.01
    levels = task_index(np.zeros(36))[["hp_0", "hp_3", "hp_1"]].to_numpy().T
    additive = first[0][levels[0]] + second[levels[2]] + third * generator.normal(size=36)
    crossed = first[levels[0], levels[1]] + third * generator.normal(size=36)
    in_fold = folds_of(np.arange(36))
    for gap in (additive, crossed):
        index = task_index(gap)
        plain = out_of_fold(main_effects(index).to_numpy(), gap, in_fold)
        assert r2(gap, hyperparameters_alone(index)) >= r2(gap, plain) - 1e-12
    assert r2(additive, hyperparameters_alone(task_index(additive))) > 0.99
    assert r2(crossed, plain) < 0.6 < 0.95 < r2(crossed, hyperparameters_alone(index))


def test_the_baseline_of_a_network_does_not_know_its_own_gap(judged):
    index, _ = judged
    changed = index.copy()
    changed.loc[7, "test_accuracy"] -= 0.02
    before, after = (hyperparameters_alone(rows) for rows in (index, changed))
    assert after[7] == pytest.approx(before[7], abs=1e-12)
    assert (abs(after - before) > 1e-4).sum() > 20


def test_where_hyper_parameters_tell_nothing_neither_does_the_baseline(task_index):
    generator, taus = np.random.default_rng(0), []
    for _ in range(20):
        index = task_index(generator.normal(size=36))
        taus.append(plain_tau(hyperparameters_alone(index), -index["test_accuracy"]))
    assert abs(np.mean(taus)) < 0.1


def test_main_effects_have_a_column_for_all_but_one_value_and_none_for_copies(task_index):
    index = task_index(np.zeros(36)).assign(hp_copy=range(36), hp_twin=lambda rows: rows["hp_1"])
    found = main_effects(index)
    assert found.shape == (36, 2 + 1 + 1 + 2)
    assert list(found)[:2] == ["0 = 0", "0 = 1"] and list(found.index) == list(index["model_id"])


def test_a_measure_adds_what_hyper_parameters_do_not_tell(judged):
    index, values = judged
    rows = added_value_table(values, index, samples=300).set_index("measure")
    assert rows["r2_hyperparameters"].nunique() == 1
    alone = r2(gap_of(index), hyperparameters_alone(index))
    assert rows["r2_hyperparameters"].iloc[0] == pytest.approx(alone, abs=1e-12)
    known = rows.drop(index="holed")
    gain = known["r2_with_measure"] - known["r2_hyperparameters"]
    assert known["gain"].to_numpy() == pytest.approx(gain.to_numpy(), abs=1e-12)
    assert rows.loc["residual", "low"] > 0  # the noise itself
    # Ranks of a normal sample correlate with it by 0.98: most of what was unexplained is told.
    assert 1 - rows.loc["residual", "r2_with_measure"] < 0.3 * (1 - alone)
    for nothing_new in ("depth", "constant"):  # known already
        assert rows.loc[nothing_new, ["gain", "low", "high"]].to_numpy(float) == pytest.approx(
            [0, 0, 0], abs=1e-12
        )
    assert rows.loc["random", "low"] < 0 and rows.loc["random", "gain"] < 0.05
    assert rows.loc["holed", ["r2_with_measure", "gain", "low", "high"]].isna().all()


def test_measures_that_say_nothing_or_read_the_settings_hardly_ever_add(task_index, effects):
    generator, index, found = np.random.default_rng(0), task_index(np.zeros(36)), []
    for _ in range(5):
        gap = effects(index) + 0.05 * generator.normal(size=36)
        of_settings = [
            generator.normal(size=size)[index[f"hp_{at}"]] for at, size in enumerate((3, 2, 2, 3))
        ]
        noise = generator.normal(size=(36, 20))
        read = np.column_stack([of_settings[0] * of_settings[3] + 0.1 * noise[:, 0], noise])
        values = pd.DataFrame(read, index=pd.Index(index["model_id"]))
        found.append(added_value_table(values, task_index(gap), samples=200))
    assert (pd.concat(found)["low"] > 0).mean() <= 0.05
