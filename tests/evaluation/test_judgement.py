"""Judgement against the competition's numbers, plain loops, scipy, and what follows by hand."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gengap import GengapError
from gengap.collection import last_epoch
from gengap.evaluation import baselines as baselines_module
from gengap.evaluation import judgement
from gengap.evaluation.baselines import (
    BASELINE,
    BASELINES,
    TRAIN_ACCURACY,
    TRAIN_LOSS,
    baselines,
    hyperparameters_alone,
)
from gengap.evaluation.judgement import judged, summary
from gengap.evaluation.ranking import rank_stability, rank_table
from gengap.evaluation.regression import FOLDS, cross_validated_r2, r2
from gengap.evaluation.reliability import RELIABLE
from gengap.evaluation.samples import Sample
from gengap.evaluation.scores import CRITERIA, cmi, sign_errors
from gengap.evaluation.tasks import PAIRS, hyperparameters, official_task, task_of

FEW = {"samples": 20, "permutations": 99}
NO_ENVIRONMENT = (
    "no two values of a hyper-parameter have 10 pairs of networks that differ in nothing else and"
    " have different gaps"
)
TIED = 7  # different values of a measure with many ties


def index_of(gap, *, family="f", **columns):
    """Index rows with these gaps; columns are hyper-parameters without their `hp_`."""
    n = len(gap)
    rows = {"model_id": [f"{family}/{at}" for at in range(n)], "family": family, "epoch": math.nan}
    rows |= {"train_accuracy": 1.0, "test_accuracy": 0.5, "gap": np.asarray(gap, float)}
    rows |= {"train_loss": np.linspace(0.1, 0.2, n), "test_loss": math.nan}
    return pd.DataFrame(rows | {f"hp_{name}": values for name, values in columns.items()})


def grid_of(*sizes, gap=None, copies=1, seed=0, family="f"):
    """A complete grid with replicates and, unless given, random gaps."""
    points = [point for point in itertools.product(*map(range, sizes)) for _ in range(copies)]
    gap = np.random.default_rng(seed).uniform(0, 0.5, len(points)) if gap is None else gap
    names = [f"h{at}" for at in range(len(sizes))]
    columns = {name: list(values) for name, values in zip(names, zip(*points), strict=True)}
    if copies > 1:
        columns["copy"] = [at % copies for at in range(len(points))]
    return index_of(gap, family=family, **columns)


def table_of(index, **measures):
    return pd.DataFrame(measures, index=pd.Index(index["model_id"]))


def random_measure(index, seed, values=TIED):
    return np.random.default_rng(seed).integers(values, size=len(index)).astype(float)


def drawn(task, samples=8, seed=3):
    n = len(task.gap)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples)
    return Sample(task, draws.astype(float))


def scored(found, score, measure="m"):
    row = found[(found["score"] == score) & (found["measure"] == measure)]
    assert len(row) == 1
    return row.iloc[0]


def counted(measure, index):
    """For each environment (hyper-parameter, value, value) the errors of its pairs, by loops."""
    varied, found = hyperparameters(index), {}
    for one, two in itertools.combinations(range(len(index)), 2):
        differs = [name for name in varied if varied[name].iloc[one] != varied[name].iloc[two]]
        asked = index["gap"].iloc[one] - index["gap"].iloc[two]
        if len(differs) == 1 and asked != 0:
            values = sorted(varied[differs[0]].iloc[[one, two]])
            told = measure[one] - measure[two]
            error = 0.5 if told == 0 else float((told > 0) != (asked > 0))
            found.setdefault((differs[0], *values), []).append((one, two, error))
    return {name: pairs for name, pairs in found.items() if len(pairs) >= PAIRS}


@pytest.fixture(autouse=True)
def small_forests(monkeypatch):
    """What hyper-parameters alone predict is not the subject of most tests, and takes most time."""
    monkeypatch.setattr(baselines_module, "TREES", 10)


@pytest.fixture(scope="module", params=["task1_v4", "task2_v1"])
def real(reference, request):
    """A task of the competition: index rows, measures that a team submitted, published scores."""
    folder = reference / "pgdl_participants"
    models = pd.read_csv(folder / f"{request.param}_models.csv")
    specs = json.loads((folder / f"{request.param}_model_configs.json").read_text())
    hparams = [specs[str(model)]["hparams"] for model in models["model_id"]]
    columns = {name: [row[name]["current_value"] for row in hparams] for name in hparams[0]}
    index = index_of(models["gen_gap"], **columns)
    measures = models.filter(regex="^measure").rename(columns=lambda name: name[len("measure.") :])
    published = pd.read_csv(folder / "published_scores.csv").query("task == @request.param")
    return index, measures.set_axis(index["model_id"]), published.set_index("measure")


# The competition's data


def test_cmi_is_as_published_and_leaves_out_hyper_parameters_of_one_value(real):
    index, measures, published = real
    found = judged(measures, index, scores=["cmi"], samples=2, permutations=1)
    varied = index.drop(columns="hp_dense_width", errors="ignore")
    for name, values in measures.items():
        value = scored(found, "cmi", name)["value"]
        assert value == pytest.approx(cmi(values.to_numpy(), official_task(varied)), abs=1e-12)
        if varied.shape == index.shape:
            assert round(value, 12) == published.loc[name, "published_cmi"]


@pytest.mark.parametrize("name", ["cmi", "kendall_tau", "granulated_tau"])
def test_the_competitions_rules_change_no_score_of_a_plain_grid_drawn_or_whole(real, name):
    index, measures, _ = real
    index = index.drop(columns="hp_dense_width", errors="ignore")
    ours, official, score = task_of(index), official_task(index), CRITERIA[name].score
    draws = drawn(ours).draws
    for values in measures.to_numpy().T:
        for one, other in ((ours, official), (Sample(ours, draws), Sample(official, draws))):
            expected = score(values, other)
            assert score(values, one) == pytest.approx(expected, abs=1e-12, nan_ok=True)


# Other libraries and plain loops


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "correlation"), [("kendall_tau", stats.kendalltau), ("spearman", stats.spearmanr)]
)
def test_correlations_equal_scipys_with_ties_and_on_copies_of_drawn_networks(
    name, correlation, seed
):
    index = grid_of(3, 2, 4, gap=np.random.default_rng(seed).integers(9, size=24))
    measure, score = random_measure(index, seed), CRITERIA[name].score
    task, gap = task_of(index), index["gap"].to_numpy()
    found = score(measure, task)
    assert found == pytest.approx(correlation(measure, gap).statistic, abs=1e-12)
    sample = drawn(task)
    expected = [
        correlation(*(np.repeat(part, draws.astype(int)) for part in (measure, gap))).statistic
        for draws in sample.draws
    ]
    assert score(measure, sample) == pytest.approx(expected, abs=1e-12)


def test_r2_is_that_of_out_of_fold_least_squares_on_ranks():
    index = grid_of(3, 2, 5)
    measure = random_measure(index, 1) + 3 * index["gap"].to_numpy()
    found = CRITERIA["r2"].score(measure, task_of(index, seed=4))
    expected = cross_validated_r2(stats.rankdata(measure), index["gap"], folds=FOLDS, seed=4)
    assert found == pytest.approx(expected, abs=1e-12)


def test_r2_of_drawn_networks_keeps_the_copies_of_one_in_the_same_fold():
    index = grid_of(3, 2, 5)
    ranks, task = stats.rankdata(random_measure(index, 1) + index["gap"]), task_of(index)
    sample, gap = drawn(task), index["gap"].to_numpy()
    for draws, found in zip(sample.draws, CRITERIA["r2"].score(ranks, sample), strict=True):
        copies = np.repeat(np.arange(len(gap)), draws.astype(int))
        folds, predicted = task.in_fold[copies], np.empty(len(copies))
        for fold in range(FOLDS):
            rest = copies[folds != fold]
            line = np.polynomial.Polynomial.fit(ranks[rest], gap[rest], 1)
            predicted[folds == fold] = line(ranks[copies[folds == fold]])
        assert found == pytest.approx(r2(gap[copies], predicted), abs=1e-10)


@pytest.mark.parametrize("copies", [1, 2])
def test_sign_errors_equal_a_loop_over_pairs_that_differ_in_one_hyper_parameter(copies):
    index = grid_of(3, 2, 4, 2, copies=copies)
    index["gap"] = index["gap"].round(2)
    measure, task = random_measure(index, 2), task_of(index)
    environments = counted(measure, index)
    assert len(environments) == 3 + 1 + 6 + 1
    expected = [np.mean([error for *_, error in pairs]) for pairs in environments.values()]
    assert sorted(sign_errors(measure, task)) == pytest.approx(sorted(expected))
    for name, whole in (("mean_sign_error", np.mean), ("worst_sign_error", np.max)):
        assert CRITERIA[name].score(measure, task) == pytest.approx(whole(expected))


def test_drawn_pairs_count_as_often_as_both_networks_were_drawn():
    index = grid_of(3, 2, 2, 2, copies=2)
    measure = random_measure(index, 2)
    sample, environments = drawn(task_of(index)), counted(measure, index)
    for draws, found in zip(sample.draws, sign_errors(measure, sample), strict=True):
        expected = []
        for pairs in environments.values():
            copies = [error for i, j, error in pairs for _ in range(int(draws[i] * draws[j]))]
            expected.append(np.mean(copies))
        assert sorted(found) == pytest.approx(sorted(expected))


@pytest.mark.parametrize("settings", [True, False])
def test_nulls_are_the_scores_of_the_permuted_measure(settings):
    index = grid_of(3, 2, 2, 2)
    measure = random_measure(index, 5) + 8 * index["gap"].to_numpy().round(1)
    index = index if settings else index[index.columns[~index.columns.str.startswith("hp_")]]
    found = judged(table_of(index, m=measure), index, samples=2, permutations=2000)
    generator, gap = np.random.default_rng(9), index["gap"].to_numpy()
    for score, correlation in (("kendall_tau", stats.kendalltau), ("spearman", stats.spearmanr)):
        null = [correlation(generator.permutation(measure), gap).statistic for _ in range(2000)]
        row = scored(found, score)
        assert row["null_mean"] == pytest.approx(np.mean(null), abs=6 * np.std(null) / 2000**0.5)
        if not settings:  # then p has the same null
            share = np.mean(np.array(null) >= correlation(measure, gap).statistic)
            assert row["p_value"] == pytest.approx(share, abs=4 * np.sqrt(2 * share / 2000) + 1e-3)


def test_false_discovery_rates_are_benjaminis_over_measures_without_baselines():
    index = grid_of(3, 2, 2, 2)
    values = table_of(index, **{f"m{at}": random_measure(index, at, 1000) for at in range(6)})
    values["m0"] += 3000 * index["gap"].to_numpy()
    found = judged(values, index, scores=["kendall_tau", "r2"], **FEW)
    assert found[found["measure"].isin(BASELINES)]["p_adjusted"].isna().all()
    for _, rows in found[~found["measure"].isin(BASELINES)].groupby("score"):
        p = rows["p_value"].to_numpy()
        expected = [min(q * 6 / np.sum(p <= q) for q in p[p >= mine]) for mine in p]
        assert rows["p_adjusted"].to_numpy() == pytest.approx(expected)


def test_intervals_cover_the_truth_and_p_values_err_as_often_as_they_say():
    random, families = np.random.default_rng(0), 150
    gap, told, noise = random.normal(size=(3, families * 40))
    index = pd.concat(
        [index_of(part, family=f"f{at}") for at, part in enumerate(gap.reshape(families, 40))],
        ignore_index=True,
    )
    values = table_of(index, told=0.5 * gap + 0.75**0.5 * told, noise=noise)
    scores = ["kendall_tau", "spearman"]
    found = judged(values, index, scores=scores, samples=100, permutations=99)
    assert found["gain"].isna().all()  # without hyper-parameters there is nothing to gain over
    truth = {"kendall_tau": 2 / np.pi * np.arcsin(0.5), "spearman": 6 / np.pi * np.arcsin(0.25)}
    for score in scores:
        rows = found[found["score"] == score].set_index("measure")
        covered = rows.loc["told", "low"].lt(truth[score]) & rows.loc["told", "high"].gt(
            truth[score]
        )
        assert 0.88 < covered.mean() < 0.99  # 0.95, -4 and +2 standard deviations
        assert 0.0 < (rows.loc["noise", "p_value"] <= 0.05).mean() < 0.12  # 0.05
        assert (rows.loc["told", "p_value"] <= 0.05).mean() > 0.9


# Closed forms


def test_a_perfect_measure_its_opposite_and_a_constant_score_as_they_must():
    index = grid_of(3, 2, 2, 3)
    gap = index["gap"].to_numpy()
    values = table_of(index, right=np.exp(9 * gap), wrong=-gap, same=np.full(36, 2.5))
    found = judged(values, index, **FEW)
    expected = {
        "kendall_tau": (1, -1, 0),
        "granulated_tau": (1, -1, 0),
        "spearman": (1, -1, 0),
        "mean_sign_error": (0, 1, 0.5),
        "worst_sign_error": (0, 1, 0.5),
        "cmi": (1, None, 0),
    }
    for score, numbers in expected.items():
        for measure, number in zip(values, numbers, strict=True):
            if number is not None:
                value = scored(found, score, measure)["value"]
                assert value == pytest.approx(number, abs=1e-9), (score, measure)
    for score in CRITERIA:
        assert scored(found, score, "right")["p_value"] == 1 / 100
        assert scored(found, score, "same")["p_value"] == 1
        assert scored(found, score, "same")["note"] == "the measure is constant here"
        assert scored(found, score, "right")["note"] == ""
    assert scored(found, "kendall_tau", "wrong")["p_value"] == 1
    assert scored(found, "r2", "wrong")["p_value"] == 1 / 100  # the direction is fitted
    assert scored(found, "r2", "same")["value"] < 0


def test_the_worst_environment_is_the_one_where_the_measure_fails():
    points = np.array([*itertools.product(range(3), range(2), range(2), range(3))])
    gap = points @ [0.10, 0.03, 0.01, 0.001]
    measure = points @ [0.10, 0.03, -0.01, 0.001]
    index = grid_of(3, 2, 2, 3, gap=gap)
    found = judged(table_of(index, m=measure), index, **FEW)
    environments = 3 + 1 + 1 + 3
    assert scored(found, "worst_sign_error")["value"] == 1
    assert scored(found, "mean_sign_error")["value"] == pytest.approx(1 / environments)
    assert scored(found, "granulated_tau")["value"] == pytest.approx((1 + 1 - 1 + 1) / 4)


def test_scores_do_not_change_with_the_scale_of_a_measure():
    index = grid_of(3, 2, 2, 2)
    measure = random_measure(index, 3, 50)
    values = table_of(
        index, m=measure, log=np.log1p(measure), far=np.where(measure < 49, measure, np.inf)
    )
    found = judged(values, index, **FEW).drop(columns=["measure", "p_adjusted"])
    parts = [part.reset_index(drop=True) for _, part in found.groupby(np.arange(len(found)) // 7)]
    pd.testing.assert_frame_equal(parts[3], parts[4])
    pd.testing.assert_frame_equal(parts[3], parts[5])


# Baselines


def test_hyper_parameters_alone_explain_a_gap_that_they_make():
    points = np.array([*itertools.product(range(4), range(3), range(3))])
    for gap in (points @ [0.1, 0.02, 0.005], points[:, 0] * points[:, 1] + points[:, 2]):
        index = grid_of(4, 3, 3, gap=gap)
        assert r2(gap, hyperparameters_alone(index)) > 0.9


def test_a_network_is_not_predicted_from_its_replicate():
    gap = np.repeat(np.random.default_rng(0).uniform(size=48), 2)  # twins are alike, all else noise
    index = grid_of(3, 4, 4, gap=gap, copies=2)
    assert r2(gap, hyperparameters_alone(index)) < 0.1


def test_hyper_parameters_drawn_at_random_predict_by_their_rank():
    rate = 10 ** np.random.default_rng(0).uniform(-4, -1, 80)
    gap = np.log10(rate) ** 2 / 20
    assert r2(gap, hyperparameters_alone(index_of(gap, rate=rate))) > 0.95


def test_gains_are_over_the_hyper_parameters_and_positive_where_better():
    index = grid_of(3, 2, 2, 3)
    alone = baselines(index)[BASELINE].to_numpy()
    values = table_of(index, right=index["gap"].to_numpy(), alone=alone)
    found = judged(values, index, **FEW)
    for score, criterion in CRITERIA.items():
        same, right = (scored(found, score, name) for name in ("alone", "right"))
        assert (same[["gain", "gain_low", "gain_high"]] == 0).all()
        assert right["gain"] == criterion.better * (right["value"] - same["value"]) > 0
        assert right["gain_low"] < right["gain"] < right["gain_high"]
        assert same["value"] == scored(found, score, BASELINE)["value"]


def test_training_accuracy_and_loss_are_baselines():
    index = grid_of(3, 2, 2, 2)
    index["train_accuracy"] = index["gap"]
    index["train_loss"] = index["gap"]
    found = judged(table_of(index), index, scores=["spearman"], **FEW)
    assert set(found["measure"]) == set(BASELINES)
    assert scored(found, "spearman", TRAIN_ACCURACY)["value"] == pytest.approx(1)
    assert scored(found, "spearman", TRAIN_LOSS)["value"] == pytest.approx(-1)


# What is lacking


def test_networks_without_a_value_are_left_out_and_counted():
    index = grid_of(3, 2, 2, 3)
    measure = random_measure(index, 0, 100)
    measure[[3, 17, 20]] = np.nan
    found = judged(table_of(index, m=measure), index, **FEW)
    rest = index.drop(index=[3, 17, 20])
    alone = judged(table_of(rest, m=measure[rest.index]), rest, **FEW)
    for score in CRITERIA:
        one, other = scored(found, score), scored(alone, score)
        assert one["models"] == other["models"] == 33
        assert one[["value", "p_value"]].tolist() == other[["value", "p_value"]].tolist()


def test_too_few_values_are_said_in_place_of_a_score():
    index = grid_of(3, 2, 2, 3)
    measure = np.where(np.arange(36) < 19, np.arange(36.0), np.nan)
    rows = judged(table_of(index, m=measure), index, **FEW).query("measure == 'm'")
    assert rows[["value", "low", "p_value", "gain"]].isna().all(axis=None)
    assert set(rows["note"]) == {"19 of 36 networks have a value; 20 are needed"}


def test_hyper_parameters_drawn_at_random_have_no_pairs_but_halves():
    index = grid_of(3, 2, 2, 2)
    halves, random = index.copy(), np.random.default_rng(0)
    for name in ("hp_h2", "hp_h3"):
        index[name] = random.uniform(1, 2, 24) * np.where(halves[name] == 1, 1e-1, 1e-3)
    measure = random_measure(index, 0, 100)
    found = judged(table_of(index, m=measure), index, **FEW)
    expected = cmi(measure, official_task(halves))
    assert scored(found, "cmi")["value"] == pytest.approx(expected, abs=1e-12)
    for score in ("granulated_tau", "mean_sign_error", "worst_sign_error"):
        assert np.isnan(scored(found, score)["value"])
        assert "differ in" in scored(found, score)["note"]


@pytest.mark.parametrize(
    ("sizes", "gap", "score", "note"),
    [
        ((24,), None, "cmi", "1 hyper-parameters vary; 2 are needed"),
        ((24, 1), None, "mean_sign_error", NO_ENVIRONMENT),
        ((5, 5), None, "cmi", "no two networks share the values of two hyper-parameters"),
        ((3, 2, 2, 2), np.full(24, 0.1), "spearman", "all networks have the same gap"),
    ],
)
def test_a_family_without_a_score_says_why(sizes, gap, score, note):
    index = grid_of(*sizes, gap=gap)
    row = scored(judged(table_of(index, m=random_measure(index, 0)), index, **FEW), score)
    assert np.isnan(row["value"])
    assert row["note"] == note


def test_last_epochs_are_those_of_each_family():
    one, other = grid_of(2, 2), grid_of(2, 2, family="g")
    one["epoch"], unknown = [1, 4, 4, 2], grid_of(2, 2, family="h")
    other["epoch"] = [1, 1, 1, 0]
    kept = last_epoch(pd.concat([one, other, unknown]))
    assert list(kept["model_id"].str[0]) == list("ffggghhhh")


def test_mistakes_are_refused_with_the_place():
    index = grid_of(3, 2, 2, 2)
    values = table_of(index, m=random_measure(index, 0))
    with pytest.raises(GengapError, match="no score 'tau'; there are: cmi, "):
        judged(values, index, scores=["tau"])
    with pytest.raises(GengapError, match="'f/3' has two rows of values; keep one"):
        judged(pd.concat([values, values.iloc[[3]]]), index)
    with pytest.raises(GengapError, match="is the name of a baseline"):
        judged(values.rename(columns={"m": BASELINE}), index)
    with pytest.raises(GengapError, match="rows of f are of 2 epochs; judge networks at one"):
        judged(values, index.assign(epoch=[0] * 12 + [1] * 12))
    with pytest.raises(GengapError, match="'f/2' has no gap"):
        judged(values, index.assign(gap=index["gap"].where(index.index != 2)))


# Families beside each other


def two_families():
    one, other = grid_of(3, 2, 2, 3), grid_of(3, 2, 2, 2, family="g", seed=1)
    index = pd.concat([one, other], ignore_index=True)
    generator = np.random.default_rng(2)
    noise = {f"m{k}": k * 0.3 * generator.normal(size=len(index)) for k in range(5)}
    return index, table_of(
        index, **{name: index["gap"].to_numpy() + n for name, n in noise.items()}
    )


@pytest.mark.parametrize("sizes, copies", [((5,), 2), ((3, 2), 2), ((2, 3, 2), 1), ((40, 2), 1)])
def test_neighbours_are_all_pairs_that_differ_in_one_hyper_parameter_alone(sizes, copies):
    rows = grid_of(*sizes, copies=copies).sample(frac=0.8, random_state=1)
    settings = rows[[f"hp_h{at}" for at in range(len(sizes))]].to_numpy()
    differ = {
        pair: np.flatnonzero(settings[pair[0]] != settings[pair[1]])
        for pair in itertools.combinations(range(len(rows)), 2)
    }
    expected = [(*pair, which[0]) for pair, which in differ.items() if len(which) == 1]
    assert [*zip(*task_of(rows).neighbours, strict=True)] == expected


def test_of_a_large_family_a_stated_number_of_networks_is_judged(monkeypatch):
    monkeypatch.setattr(judgement, "MOST", 25)
    large, small = grid_of(5, 4, 2), grid_of(3, 4, 2, family="g")
    index = pd.concat([large, small], ignore_index=True)
    measure = random_measure(index, 0)
    measure[:3] = np.nan
    found = judged(table_of(index, m=measure), index, scores=["kendall_tau"], **FEW)
    row, other = (found[(found["measure"] == "m") & (found["family"] == of)] for of in "fg")
    assert 22 <= row["models"].item() <= 25
    assert row["note"].item() == "drawn at random of 40 networks"
    assert (other["models"].item(), other["note"].item()) == (24, "")
    alone = judged(table_of(index, m=measure), index[:40], scores=["kendall_tau"], **FEW)
    pd.testing.assert_frame_equal(found[found["family"] == "f"], alone)


def test_a_family_is_judged_alike_whichever_stand_beside_it():
    index, values = two_families()
    both = judged(values, index, **FEW)
    alone = judged(values, index[index["family"] == "g"].reset_index(drop=True), **FEW)
    pd.testing.assert_frame_equal(both[both["family"] == "g"].reset_index(drop=True), alone)
    pd.testing.assert_frame_equal(both, judged(values, index, **FEW))


def test_ranks_order_measures_by_their_score_and_say_how_sure():
    index, values = two_families()
    for score in ("kendall_tau", "mean_sign_error"):
        ranks = rank_table(values, index, score=score, samples=50)
        goodness = judged(values, index, scores=[score], **FEW)
        for family, rows in ranks.groupby("family"):
            mine = goodness[(goodness["family"] == family) & goodness["measure"].isin(values)]
            better = -CRITERIA[score].better * mine.set_index("measure")["value"]
            expected = stats.rankdata(better[rows["measure"]])
            assert rows["rank"].tolist() == expected.tolist()
            assert (rows["low"] <= rows["rank"]).all() and (rows["rank"] <= rows["high"]).all()
            best = rows.set_index("measure").loc["m0"]
            assert best[["rank", "low", "high", "measures"]].tolist() == [1, 1, 1, 5]


def test_rankings_that_agree_have_correlation_one_and_reversed_ones_minus_one():
    index, values = two_families()
    twin = index[index["family"] == "f"].assign(
        family="g", model_id=lambda rows: "g" + rows["model_id"]
    )
    pair = pd.concat([index[index["family"] == "f"], twin], ignore_index=True)
    mine = values.loc[index.loc[index["family"] == "f", "model_id"]]
    for sign in (1, -1):
        other = (sign * mine).set_axis(twin["model_id"])
        row = rank_stability(pd.concat([mine, other]), pair, samples=50).iloc[0]
        assert (row["family"], row["other"], row["measures"]) == ("f", "g", 5)
        assert row["spearman"] == pytest.approx(sign)
        assert -1 <= row["low"] < row["high"] <= 1


def test_rank_stability_equals_scipys_and_needs_three_common_measures():
    index, values = two_families()
    row = rank_stability(values, index, samples=50).iloc[0]
    goodness = judged(values, index, scores=["kendall_tau"], **FEW)
    wide = goodness[goodness["measure"].isin(values)].pivot(
        index="measure", columns="family", values="value"
    )
    assert row["spearman"] == pytest.approx(stats.spearmanr(wide["f"], wide["g"]).statistic)
    assert np.isnan(rank_stability(values[["m0", "m1"]], index, samples=5).iloc[0]["spearman"])
    alone = rank_stability(values, index[index["family"] == index["family"].iloc[0]], samples=5)
    assert alone.empty and {"family", "other", "spearman"} < set(alone.columns)


def test_hyperparameters_that_always_change_together_are_one_but_not_those_drawn_at_random():
    grid = grid_of(2, 3, 2)
    grid["hp_of another layer"] = grid["hp_h0"] * 8 + 40
    assert list(hyperparameters(grid)) == ["hp_h0", "hp_h1", "hp_h2"]
    # With the twin counted, no two networks would differ in h0 alone.
    assert set(task_of(grid).neighbours[2]) == {0, 1, 2}
    generator = np.random.default_rng(0)
    random = index_of(generator.random(12), rate=generator.random(12), l2=generator.random(12))
    assert list(hyperparameters(random)) == ["hp_rate", "hp_l2"]


def test_a_summary_counts_families_and_takes_the_worst():
    scores = pd.DataFrame(
        {
            "measure": ["a", "a", "b", "b", "b", BASELINE],
            "score": ["kendall_tau"] * 4 + ["cmi", "kendall_tau"],
            "value": [0.5, -0.2, 0.1, np.nan, 0.9, 0.9],
            "p_adjusted": [0.01, 0.9, 0.2, np.nan, 0.0, np.nan],
            "gain_low": [0.1, -0.5, -0.1, np.nan, 0.5, 0.0],
            "reliability": [RELIABLE, np.nan, 0.9, 0.9, 0.9, 0.9],
        }
    )
    found = summary(scores)
    assert list(found.index) == ["b", "a"]
    assert found.loc["a"].to_list() == [2, 1, 1, 1, 1, pytest.approx(0.15), -0.2]
    assert found.loc["b"].to_list() == [1, 1, 0, 0, 0, 0.1, 0.1]


def test_families_whose_gap_is_mostly_noise_take_no_part_in_a_summary():
    scores = pd.DataFrame({"measure": "a", "score": "kendall_tau", "value": [0.5, -0.2, 0.3]})
    scores = scores.assign(p_adjusted=0.01, gain_low=0.1, reliability=[0.9, 0.49, np.nan])
    found = summary(scores).loc["a"]
    assert found[["families", "right_sign", "of_unknown_reliability"]].tolist() == [2, 2, 1]
    assert found[["mean", "worst"]].tolist() == [pytest.approx(0.4), 0.3]


def test_the_reliability_of_each_family_stands_beside_its_scores():
    index, values = two_families()
    index = index.assign(train_accuracy=0.9 + index["gap"] / 10, test_images=1000)
    index["test_accuracy"] = index["train_accuracy"] - index["gap"]
    index["train_images"] = np.where(index["family"] == "f", 500, np.nan)
    found = judged(values, index, scores=["kendall_tau"], **FEW)
    known = found.groupby("family")["reliability"].agg(["nunique", "min"])
    assert known["nunique"].tolist() == [1, 0]
    assert 0.9 < known.loc["f", "min"] < 1


def test_copies_are_drawn_together():
    gap = np.repeat(np.random.default_rng(0).normal(size=60), 2)  # twins are one observation
    twins = index_of(gap, setting=np.repeat(np.arange(60.0), 2), copy=[0, 1] * 60)
    measure = gap + np.repeat(np.random.default_rng(1).normal(size=60), 2)
    options = {"scores": ["kendall_tau"], "samples": 400, "permutations": 1}
    halves = twins.iloc[::2].drop(columns="hp_copy")
    pair = [
        judged(table_of(rows, m=measure[rows.index]), rows, **options)
        for rows in (twins, halves, twins.drop(columns="hp_copy"))
    ]
    width = [
        scored(found, "kendall_tau")["high"] - scored(found, "kendall_tau")["low"] for found in pair
    ]
    assert width[0] == pytest.approx(width[1], rel=0.15)
    assert width[2] < 0.8 * width[1]
