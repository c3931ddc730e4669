"""Scores against closed forms and against scipy, sklearn and statsmodels."""

import itertools

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict

from gengap import GengapError
from gengap.evaluation.analysis import (
    BASELINE,
    added_value_table,
    adjusted_r2,
    bootstrap_interval,
    cross_validated_r2,
    hyperparameter_baseline,
    kendall_tau,
    out_of_fold,
    r2,
    score_table,
)
from gengap.evaluation.scores import SCORES, cmi, task_of


@pytest.fixture
def sample():
    """A linear relation with noise: features (60, 3) and target (60,)."""
    generator = np.random.default_rng(5)
    features = generator.normal(size=(60, 3))
    return features, features @ [1.0, -0.5, 0.0] + 0.3 * generator.normal(size=60)


def test_tau_counts_concordant_minus_discordant_pairs_and_corrects_for_ties():
    x, y = [1, 2, 2, 3, 5, 4], [2, 1, 3, 3, 4, 4]
    pairs = list(itertools.combinations(range(6), 2))
    signs = [np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in pairs]
    untied = [sum(v[i] != v[j] for i, j in pairs) for v in (x, y)]
    assert kendall_tau(x, y) == pytest.approx(sum(signs) / np.sqrt(untied[0] * untied[1]))


def test_tau_equals_scipys_and_is_one_for_any_increasing_map(sample):
    _, y = sample
    assert kendall_tau(y, np.exp(y)) == pytest.approx(1)
    assert kendall_tau(y, -y) == pytest.approx(-1)
    assert kendall_tau(y, np.cos(7 * y)) == stats.kendalltau(y, np.cos(7 * y)).statistic


def test_tau_and_r2_of_a_constant_are_nan():
    assert np.isnan(kendall_tau(np.ones(5), np.arange(5)))
    assert np.isnan(r2(np.ones(5), np.arange(5)))


def test_r2_is_one_for_the_truth_and_zero_for_the_mean(sample):
    _, y = sample
    assert r2(y, y) == 1
    assert r2(y, np.full_like(y, y.mean())) == pytest.approx(0)


def test_r2_equals_sklearns_on_float32_too(sample):
    x, y = sample
    assert r2(y, x[:, 0]) == pytest.approx(r2_score(y, x[:, 0]), abs=1e-12)
    assert r2(y.astype(np.float32), x[:, 0]) == pytest.approx(r2_score(y, x[:, 0]), abs=1e-6)


def test_adjusted_r2_equals_statsmodels(sample):
    x, y = sample
    fit = sm.OLS(y, sm.add_constant(x)).fit()
    assert adjusted_r2(y, fit.fittedvalues, 3) == pytest.approx(fit.rsquared_adj, abs=1e-12)


def test_adjusted_r2_refuses_more_features_than_rows_allow():
    with pytest.raises(ValueError, match="4 rows.*3 features"):
        adjusted_r2(np.arange(4.0), np.arange(4.0), 3)


def test_cross_validated_r2_equals_sklearns_pooled_predictions(sample):
    x, y = sample
    folds = KFold(10, shuffle=True, random_state=3)
    expected = r2_score(y, cross_val_predict(LinearRegression(), x, y, cv=folds))
    assert cross_validated_r2(x, y, folds=10, seed=3) == pytest.approx(expected, abs=1e-10)


def test_cross_validated_r2_of_noise_is_not_positive_while_the_fitted_one_is():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(50, 20)), generator.normal(size=50)
    assert sm.OLS(y, sm.add_constant(x)).fit().rsquared > 0.2
    assert cross_validated_r2(x, y) < 0


def test_cross_validated_r2_takes_one_feature_as_a_vector(sample):
    x, y = sample
    assert cross_validated_r2(x[:, 0], y) == cross_validated_r2(x[:, :1], y)


def test_bootstrap_interval_of_a_mean_is_the_normal_one(sample):
    _, y = sample
    low, high = bootstrap_interval(np.mean, y, samples=4000)
    error = y.std() / np.sqrt(len(y))
    assert low == pytest.approx(y.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(y.mean() + 1.96 * error, abs=0.15 * error)


def test_bootstrap_draws_rows_jointly_and_repeats_with_its_seed(sample):
    x, y = sample
    low, high = bootstrap_interval(kendall_tau, x[:, 0], y, samples=200, seed=1)
    assert low < kendall_tau(x[:, 0], y) < high
    assert (low, high) == bootstrap_interval(kendall_tau, x[:, 0], y, samples=200, seed=1)
    assert bootstrap_interval(kendall_tau, y, np.exp(y), samples=50) == pytest.approx((1, 1))


def test_a_wider_confidence_gives_a_wider_interval(sample):
    x, y = sample
    narrow = bootstrap_interval(r2, y, x[:, 0], confidence=0.5, samples=300)
    wide = bootstrap_interval(r2, y, x[:, 0], confidence=0.99, samples=300)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_leaving_out_one_row_equals_the_closed_form(sample):
    x, y = sample
    design = sm.add_constant(x)
    hat = design @ np.linalg.pinv(design)
    expected = y - (y - hat @ y) / (1 - np.diag(hat))
    assert out_of_fold(x, y, folds=len(y)) == pytest.approx(expected, abs=1e-12)


def test_out_of_fold_predictions_bear_a_feature_given_twice(sample):
    x, y = sample
    twice = np.column_stack([x, x, np.ones(len(y))])
    assert out_of_fold(twice, y) == pytest.approx(out_of_fold(x, y), abs=1e-12)


# Measures on tasks

SIZES = (3, 2, 2, 3)


def task_index(gap, family="made_up", sizes=SIZES):
    """Index rows of a complete grid with this gap."""
    levels = np.array(list(itertools.product(*map(range, sizes))))
    columns = {f"hp_{at}": column for at, column in enumerate(levels.T)}
    models = [f"{family}/model_{at}" for at in range(len(levels))]
    index = pd.DataFrame({"model_id": models, "family": family, **columns})
    return index.assign(train_accuracy=1.0, test_accuracy=1.0 - np.asarray(gap))


def measures_of(index, **measures):
    """A measure table of one family."""
    columns = {"family": index["family"], "model_id": index["model_id"]}
    parts = [pd.DataFrame({**columns, "measure": n, "value": v}) for n, v in measures.items()]
    return pd.concat(parts, ignore_index=True).sample(frac=1, random_state=0)


def main_effects(index):
    """A sum of effects of the first, second and fourth hyper-parameter."""
    effects = ([0.0, 0.05, 0.2], [0.0, 0.1], [0.0, 0.03, -0.04])
    names = ("hp_0", "hp_1", "hp_3")
    return 0.3 + sum(np.array(e)[index[n]] for e, n in zip(effects, names, strict=True))


@pytest.fixture
def judged():
    """A task whose gap is main effects and noise, and measures of it."""
    generator = np.random.default_rng(3)
    index = task_index(np.zeros(36))
    noise = 0.05 * generator.normal(size=36)
    gap = main_effects(index) + noise
    index = task_index(gap)
    table = measures_of(
        index,
        perfect=np.exp(gap),
        residual=noise,
        depth=index["hp_0"].to_numpy(float),
        random=generator.normal(size=36),
        holed=np.where(np.arange(36) == 5, np.nan, gap),
        constant=np.full(36, 0.1),
    )
    return index, table


def test_the_score_table_holds_each_score_with_interval_and_null(judged):
    index, table = judged
    rows = score_table(table, index, samples=50, permutations=99)
    assert len(rows) == 6 * len(SCORES)
    rows = rows.set_index(["measure", "score"])
    task = task_of(index)
    for measure in ("perfect", "residual", "depth", "random"):
        values = table[table["measure"] == measure].set_index("model_id")["value"]
        for name, score in SCORES.items():
            row = rows.loc[measure, name]
            assert row["value"] == score(values[index["model_id"]].to_numpy(), task)
            assert row["low"] <= min(row["value"], 1) and row["value"] <= row["high"] + 1e-9
            assert row["low"] >= -1 and row["high"] <= 1
            assert row["null_05"] <= row["null_mean"] <= row["null_95"]
    assert (rows.loc["perfect", "p_value"] == 0.01).all()  # no permutation of 99 does as well
    assert (rows.loc["random", "p_value"] > 0.05).all()
    assert rows.loc["perfect", "value"].to_numpy() == pytest.approx([1, 1, 1, 1], abs=0.05)


def test_the_null_of_a_measure_with_ties_is_that_of_its_own_permutations(judged):
    index, table = judged
    rows = score_table(table, index, samples=2, permutations=400).set_index(["measure", "score"])
    task, generator = task_of(index), np.random.default_rng(9)
    for name, score in SCORES.items():
        values = index["hp_0"].to_numpy(float)
        own = score(np.array([generator.permutation(values) for _ in range(2000)]), task)
        row = rows.loc["depth", name]
        assert row["null_mean"] == pytest.approx(own.mean(), abs=4 * own.std() / 20)
        assert row["null_95"] == pytest.approx(np.quantile(own, 0.95), abs=0.5 * own.std())


def test_a_measure_that_lacks_a_value_has_no_score_but_keeps_its_row(judged):
    index, table = judged
    rows = score_table(table, index, samples=2, permutations=2).set_index("measure")
    assert rows.loc["holed", "value"].isna().all() and rows.loc["holed", "p_value"].isna().all()
    assert (rows.loc["holed", "models"] == 35).all()
    # A constant measure ranks nothing: no tau and no correlation, and an honest 0 of the others.
    constant = rows.loc["constant"].set_index("score")
    assert constant["value"].isna().to_dict() == {
        "cmi": False,
        "kendall_tau": True,
        "granulated_tau": False,
        "pearson": True,
    }
    assert constant.loc["cmi", "value"] == 0 and constant.loc["cmi", "p_value"] == 1


def test_the_score_table_repeats_with_its_seed_and_keeps_families_apart(judged):
    index, table = judged
    other = task_index(-index["test_accuracy"].to_numpy(), "other")
    both = pd.concat([index, other.iloc[::-1]], ignore_index=True)
    values = pd.concat([table, measures_of(other, random=np.arange(36))])
    options = {"samples": 5, "permutations": 5, "seed": 4, "scores": ["cmi", "pearson"]}
    rows = score_table(values, both, **options)
    pd.testing.assert_frame_equal(rows, score_table(values, both, **options))
    alone = score_table(table, index, **options)
    pd.testing.assert_frame_equal(rows[rows["family"] == "made_up"], alone)
    assert rows[rows["family"] == "other"]["measure"].tolist() == ["random", "random"]


def test_mistakes_in_what_is_judged_are_named(judged):
    index, table = judged
    with pytest.raises(GengapError, match="no score 'tau'; there are: cmi, kendall_tau"):
        score_table(table, index, scores=["tau"])
    with pytest.raises(GengapError, match="has 'random' of 'made_up/model_.*' twice"):
        score_table(pd.concat([table, table[table["measure"] == "random"]]), index)
    with pytest.raises(
        GengapError, match="each of the 36 points of the grid; there are 0 at 0 = 2"
    ):
        score_table(table, index.iloc[:-1], scores=["cmi"])


@pytest.mark.parametrize("share", [0.0, 0.6, 0.9])
def test_intervals_of_the_competitions_score_hold_what_other_trainings_score(share):
    # The true value is the mean score over trainings of the same grid; a strong, a middling and a
    # random measure. Nominally 95 %: of 40 intervals fewer than 34 would be a chance of 1 in 60.
    generator, rows, held = np.random.default_rng(0), [], 0
    for _ in range(40):
        gap = main_effects(task_index(np.zeros(36))) + 0.1 * generator.normal(size=36)
        noise = 0.1 * generator.normal(size=36)
        index = task_index(gap)
        table = measures_of(index, one=share * gap + (1 - share) * noise)
        rows.append(score_table(table, index, scores=["cmi"], samples=60, permutations=1).iloc[0])
    rows = pd.DataFrame(rows)
    held = ((rows["low"] <= rows["value"].mean()) & (rows["value"].mean() <= rows["high"])).sum()
    assert held >= 34
    assert (rows["high"] - rows["low"]).median() < 8 * rows["value"].std()


# What hyper-parameters alone tell


def test_the_baseline_foretells_main_effects_without_error():
    index = task_index(main_effects(task_index(np.zeros(36))))
    baseline = hyperparameter_baseline(index)
    assert baseline["measure"].unique() == [BASELINE]
    gap = index["train_accuracy"] - index["test_accuracy"]
    assert baseline["value"].to_numpy() == pytest.approx(gap.to_numpy(), abs=1e-12)
    assert cmi(gap.to_numpy().round(12), task_of(index)) > 0.99


def test_the_baseline_of_a_network_does_not_know_its_own_gap(judged):
    index, _ = judged
    changed = index.copy()
    changed.loc[7, "test_accuracy"] -= 0.2
    before, after = (hyperparameter_baseline(rows)["value"] for rows in (index, changed))
    assert after[7] == pytest.approx(before[7], abs=1e-12)
    assert (abs(after - before) > 1e-3).sum() > 20


def test_where_hyper_parameters_tell_nothing_the_baseline_leans_against_the_truth():
    generator, taus = np.random.default_rng(0), []
    for _ in range(20):
        index = task_index(generator.normal(size=36))
        taus.append(kendall_tau(hyperparameter_baseline(index)["value"], -index["test_accuracy"]))
    assert np.mean(taus) < -0.05


def test_a_measure_adds_what_hyper_parameters_do_not_tell(judged):
    index, table = judged
    rows = added_value_table(table, index, samples=300).set_index("measure")
    assert rows["r2_hyperparameters"].nunique() == 1
    gap = (index["train_accuracy"] - index["test_accuracy"]).to_numpy()
    alone = r2(gap, hyperparameter_baseline(index)["value"].to_numpy())
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
