"""Signatures and regressions against values worked by hand, closed forms and other libraries."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.cbook import boxplot_stats
from scipy import stats
from statsmodels.stats.outliers_influence import variance_inflation_factor

from gengap import GengapError
from gengap.evaluation.baselines import BASELINE, hyperparameters_alone, main_effects
from gengap.evaluation.regression import cross_validated_r2, r2
from gengap.measures.margin_signatures import STATISTICS, signature, signatures
from gengap.studies.demogen import (
    EFFECTS,
    HIDDEN,
    ablation_table,
    joint_table,
    signature_table,
    that_fit,
    transfer,
    transfer_table,
)
from gengap.studies.linear_fit import regression

STAGES = ("inputs", "h1")


def values_of(margins, kind="quartile"):
    return np.array(list(signature(margins, kind=kind).values.values()))


def skewed(seed=0, images=200):
    """Margins as networks have them: skewed, a tenth of them negative."""
    generator = np.random.default_rng(seed)
    return np.exp(generator.normal(size=images)) - 0.3


# Signatures


def test_a_fence_is_the_most_extreme_margin_within_one_and_a_half_interquartile_ranges():
    # Quartiles at ranks 3, 5, 7 of 9: Q1 10, median 12, Q3 14; fences within 4 and 20. The
    # other rule would return 4 and 20 themselves.
    margins = [1, 5, 10, 11, 12, 13, 14, 19, 30]
    found = signature(np.array(margins, float))
    assert found.values == {"lower_fence": 5, "q1": 10, "median": 12, "q3": 14, "upper_fence": 19}
    assert (found.images, found.dropped, found.note) == (9, 0, "")


def test_the_lower_fence_of_a_skewed_distribution_has_a_logarithm_where_the_other_rule_has_none():
    found = signature(np.array([1.0, 2, 4, 8, 16])).values  # Q1 2, Q3 8
    assert found["q1"] - 1.5 * (found["q3"] - found["q1"]) == -7
    assert (found["lower_fence"], found["upper_fence"]) == (1, 16)


def test_a_fence_never_lies_between_the_quartiles():
    # Q3 is 1/4 of the way from 1 to 100, and no margin lies between it and the limit 62.875.
    found = signature(np.array([1.0] * 6 + [100] * 2)).values
    assert (found["q3"], found["upper_fence"]) == (25.75, 25.75)
    found = signature(np.array([1.0] * 2 + [100] * 6)).values
    assert (found["q1"], found["lower_fence"]) == (75.25, 75.25)


def test_a_moment_is_the_root_of_the_mean_power():
    # Means of powers of 1 (four times) and 2: 6/5, 8/5, 12/5, 20/5, 36/5.
    means = np.array([6, 8, 12, 20, 36]) / 5
    roots = means ** (1 / np.arange(1, 6))
    assert values_of([1.0, 1, 1, 1, 2], "moment") == pytest.approx(roots, rel=1e-12)


@pytest.mark.parametrize("kind", STATISTICS)
def test_only_positive_margins_count_and_the_others_are_counted(kind):
    margins = [3.0, -5, 1, 0, 2, 4, -1e9, 5]
    found = signature(margins, kind=kind)
    assert found.values == signature([1.0, 2, 3, 4, 5], kind=kind).values
    assert (found.images, found.dropped) == (8, 3)


@pytest.mark.parametrize("images", range(5, 40))
def test_quartile_signatures_equal_the_box_of_matplotlib(images):
    margins = np.exp(3 * np.random.default_rng(images).normal(size=images))
    [box] = boxplot_stats(margins)
    expected = [box[name] for name in ("whislo", "q1", "med", "q3", "whishi")]
    assert values_of(margins) == pytest.approx(expected, rel=1e-12)
    assert (np.diff(values_of(margins)) >= 0).all()


def test_moment_signatures_equal_the_power_means_of_scipy():
    margins = abs(skewed())
    expected = [stats.pmean(margins, k) for k in range(1, 6)]
    assert values_of(margins, "moment") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", STATISTICS)
def test_a_scale_of_the_margins_shifts_the_logarithm_and_their_order_is_nothing(kind):
    margins = skewed()
    shift = np.log(values_of(1e-3 * margins, kind)) - np.log(values_of(margins, kind))
    assert shift == pytest.approx(np.full(5, np.log(1e-3)), rel=1e-12)
    assert values_of(margins[::-1].copy(), kind) == pytest.approx(values_of(margins, kind))


@pytest.mark.parametrize("kind", STATISTICS)
@pytest.mark.parametrize("size", [1e-90, 1e90])
def test_the_fifth_power_of_tiny_and_huge_margins_neither_vanishes_nor_overflows(kind, size):
    assert values_of(size * skewed(), kind) / size == pytest.approx(values_of(skewed(), kind))


@pytest.mark.parametrize("kind", STATISTICS)
def test_constant_margins_are_five_times_that_constant(kind):
    assert values_of(np.full(7, 0.3), kind) == pytest.approx(np.full(5, 0.3), rel=1e-12)


def test_float32_tensors_that_need_gradients_are_taken_too():
    margins = torch.tensor(skewed(), dtype=torch.float32, requires_grad=True)
    assert values_of(margins) == pytest.approx(values_of(skewed()), rel=1e-6)


@pytest.mark.parametrize("kind", STATISTICS)
@pytest.mark.parametrize(
    "margins, note",
    [
        ([1.0, 2, 3, 4, -1, 0], "4 of 6 margins are positive; 5 are needed"),
        ([], "0 of 0 margins are positive"),
        ([-1.0] * 9, "0 of 9 margins are positive"),
        ([1.0, 2, 3, 4, 5, 6, np.nan], "1 of 7 margins are not finite"),
        ([1.0, 2, 3, 4, 5, np.inf, -np.inf], "2 of 7 margins are not finite"),
    ],
)
def test_without_enough_margins_a_signature_is_nan_and_says_why(kind, margins, note):
    found = signature(margins, kind=kind)
    assert note in found.note
    assert tuple(found.values) == STATISTICS[kind] and np.isnan(list(found.values.values())).all()


def test_mistaken_margins_and_kinds_are_named():
    with pytest.raises(GengapError, match="no signature 'quantile'; there are: quartile, moment"):
        signature(skewed(), kind="quantile")
    with pytest.raises(GengapError, match=r"shape \(2, 100\)"):
        signature(skewed().reshape(2, 100))


# Tables of signatures


@pytest.fixture
def networks():
    """Margins and total variations of three networks, by model and stage."""
    margins = {f"m{at}": {"inputs": skewed(at), "h1": 3 * skewed(at + 9)} for at in (2, 0, 1)}
    variations = {model: {"inputs": 2.0, "h1": 10.0} for model in margins}
    return margins, variations


def test_the_long_table_keeps_every_signature_unnormalized_with_its_counts(networks):
    margins, variations = networks
    rows = signatures(margins, variations).set_index(["model_id", "stage", "kind", "statistic"])
    rows = rows.sort_index()
    assert len(rows) == 3 * 2 * 2 * 5
    for model, stage, kind in itertools.product(margins, STAGES, STATISTICS):
        own = rows.loc[(model, stage, kind)]
        expected = signature(margins[model][stage], kind=kind)
        assert own["value"].to_dict() == expected.values
        assert (own["dropped"] == expected.dropped).all() and expected.dropped > 0
        assert (own["images"] == 200).all() and (own["note"] == "").all()
        assert (own["normalizer"] == variations[model][stage]).all()


@pytest.mark.parametrize("kind", STATISTICS)
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("log", [False, True])
def test_features_divide_the_margins_first_and_take_the_logarithm_last(
    networks, kind, normalized, log
):
    margins, variations = networks
    options = {"kind": kind, "normalized": normalized, "log": log}
    table = signature_table(signatures(margins, variations), **options)
    assert table.index.tolist() == ["m2", "m0", "m1"] and table.index.name == "model_id"
    assert table.columns.tolist() == list(itertools.product(STAGES, STATISTICS[kind]))
    for model, stage in itertools.product(margins, STAGES):
        divisor = variations[model][stage] if normalized else 1
        expected = values_of(margins[model][stage] / divisor, kind)
        expected = np.log(expected) if log else expected
        assert table.loc[model, stage].to_numpy() == pytest.approx(expected, rel=1e-12)


def test_features_are_of_the_stages_asked_for_in_that_order(networks):
    rows = signatures(*networks)
    assert signature_table(rows, stages=["h1"]).columns.get_level_values(0).unique() == ["h1"]
    both = signature_table(rows, stages=["h1", "inputs"])
    assert both.columns.get_level_values(0).unique().tolist() == ["h1", "inputs"]
    pd.testing.assert_frame_equal(both[list(STAGES)], signature_table(rows))


def test_a_network_without_a_signature_keeps_its_row_and_its_reason(networks):
    margins, variations = networks
    margins["m0"]["h1"] = -abs(margins["m0"]["h1"])
    rows = signatures(margins, variations)
    assert (rows["note"] != "").sum() == 10
    table = signature_table(rows)
    assert table.index.tolist() == ["m2", "m0", "m1"]
    assert table.loc["m0", "h1"].isna().all() and table["inputs"].notna().all(axis=None)


@pytest.mark.parametrize("variation", [0.0, float("nan"), float("inf")])
def test_what_cannot_be_normalized_is_nan_only_where_normalization_is_asked_for(
    networks, variation
):
    margins, variations = networks
    variations["m1"]["h1"] = variation
    rows = signatures(margins, variations)
    assert rows[rows["note"] != ""]["note"].unique() == [f"nothing to normalize by: {variation:g}"]
    for log in (False, True):
        assert signature_table(rows, log=log).loc["m1", "h1"].isna().all()
        assert signature_table(rows, log=log, normalized=False).notna().all(axis=None)


def test_the_logarithm_of_what_is_not_positive_is_nan(networks):
    rows = signatures(*networks)
    rows.loc[[0, 1], "value"] = [0.0, -1.0]
    table = signature_table(rows)
    assert table.isna().sum(axis=None) == 2
    assert table.loc["m2", "inputs"][["lower_fence", "q1"]].isna().all()
    assert signature_table(rows, log=False).notna().all(axis=None)


def test_mistaken_tables_are_named(networks):
    margins, variations = networks
    rows = signatures(margins, variations)
    with pytest.raises(GengapError, match="no signatures at 'h9'; there are: inputs, h1"):
        signature_table(rows, stages=["h1", "h9"])
    with pytest.raises(GengapError, match="'m2' has two signatures"):
        signature_table(pd.concat([rows, rows]))
    with pytest.raises(GengapError, match="no signature 'x'"):
        signature_table(rows, kind="x")
    del variations["m0"]["h1"]
    with pytest.raises(
        GengapError, match="'m0' has margins and nothing to normalize them by at 'h1'"
    ):
        signatures(margins, variations)


# The regression


def frame(values, columns=None):
    models = [f"m{at}" for at in range(len(values))]
    return pd.DataFrame(values, index=pd.Index(models, name="model_id"), columns=columns)


@pytest.fixture
def sample():
    """Features (40, 3) and gaps (40,) with noise."""
    generator = np.random.default_rng(1)
    features = frame(generator.normal(size=(40, 3)), ["a", "b", "c"])
    noise = pd.Series(0.02 * generator.normal(size=40), features.index)
    return features, 0.1 + features @ [0.05, -0.02, 0.0] + noise


def test_an_exact_linear_relation_is_recovered(sample):
    features, _ = sample
    fit = regression(features, 0.1 + features @ [0.05, -0.02, 0.3])
    estimates = fit.coefficients["estimate"]
    assert estimates.to_dict() == pytest.approx(
        {"intercept": 0.1, "a": 0.05, "b": -0.02, "c": 0.3}, abs=1e-12
    )
    assert (fit.adjusted_r2, fit.k_fold_r2) == pytest.approx((1, 1), abs=1e-12)
    assert fit.mse < 1e-24 and fit.models["residual"].abs().max() < 1e-12


def test_a_fit_of_four_points_is_as_worked_by_hand():
    # Means 2.5 and 2.5, Sxx = Syy = 5, Sxy = 4: slope 0.8, R2 0.64, adjusted 1 - 0.36 * 3 / 2.
    features, gap = frame([[1.0], [2], [3], [4]], ["x"]), frame([1.0, 3, 2, 4])[0]
    fit = regression(features, gap, folds=4)
    assert fit.adjusted_r2 == pytest.approx(0.46, abs=1e-12)
    assert fit.coefficients["estimate"].tolist() == pytest.approx([0.5, 0.8], abs=1e-12)
    # Residual variance 1.8 / 2; 4.302653 is the 97.5 % quantile of t with 2 degrees of freedom.
    half = 4.302653 * np.sqrt(0.9 / 5)
    interval = fit.coefficients.loc["x", ["low", "high"]].tolist()
    assert interval == pytest.approx([0.8 - half, 0.8 + half], abs=1e-6)
    leverage, residual = np.array([0.7, 0.3, 0.3, 0.7]), np.array([-0.3, 0.9, -0.9, 0.3])
    assert fit.models["leverage"].to_numpy() == pytest.approx(leverage, abs=1e-12)
    assert fit.models["residual"].to_numpy() == pytest.approx(residual, abs=1e-12)
    cook = residual**2 * leverage / (2 * 0.9 * (1 - leverage) ** 2)
    assert fit.models["cooks_distance"].to_numpy() == pytest.approx(cook, abs=1e-12)
    left_out = residual / (1 - leverage)
    assert fit.mse == pytest.approx(np.mean(left_out**2), abs=1e-12)
    assert fit.k_fold_r2 == pytest.approx(1 - np.sum(left_out**2) / 5, abs=1e-12)


def test_orthogonal_features_inflate_nothing():
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
    features = frame(5 + np.tile(signs, (2, 1)) * [1e-3, 1.0, 1e3], ["a", "b", "c"])
    fit = regression(features, frame(np.arange(16.0))[0])
    assert fit.inflation.to_dict() == pytest.approx({"a": 1, "b": 1, "c": 1}, rel=1e-9)
    assert fit.condition_number == pytest.approx(1, rel=1e-9)


def test_two_features_of_correlation_r_inflate_by_the_known_factor(sample):
    features, gap = sample
    two = features[["a"]].assign(b=features["a"] + 0.1 * features["b"])
    r = np.corrcoef(two.T)[0, 1]
    fit = regression(two, gap)
    assert fit.inflation.to_numpy() == pytest.approx(np.full(2, 1 / (1 - r**2)), rel=1e-9)
    assert fit.condition_number == pytest.approx(np.sqrt((1 + r) / (1 - r)), rel=1e-9)


def test_one_feature_alone_is_inflated_by_nothing(sample):
    features, gap = sample
    assert regression(features[["a"]], gap).inflation.tolist() == pytest.approx([1])


def test_units_of_the_features_change_coefficients_alone(sample):
    features, gap = sample
    scale = pd.Series({"a": 1e-6, "b": 1.0, "c": 1e5})
    plain, scaled = regression(features, gap), regression(features * scale + 3, gap)
    for name in ("adjusted_r2", "k_fold_r2", "mse", "condition_number"):
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name), rel=1e-6)
    pd.testing.assert_frame_equal(scaled.models, plain.models, rtol=1e-6)
    slopes = scaled.coefficients.iloc[1:].mul(scale, axis=0)
    pd.testing.assert_frame_equal(slopes, plain.coefficients.iloc[1:], rtol=1e-6)


def test_scores_equal_those_of_the_analysis_and_of_statsmodels(sample):
    features, gap = sample
    fit = regression(features, gap, folds=7, seed=3)
    expected = cross_validated_r2(features.to_numpy(), gap.to_numpy(), folds=7, seed=3)
    assert fit.k_fold_r2 == pytest.approx(expected, abs=1e-12)
    assert fit.mse == pytest.approx((1 - expected) * gap.var(ddof=0), rel=1e-9)
    assert r2(gap, fit.models["out_of_fold"]) == pytest.approx(expected, abs=1e-12)
    centred = (features - features.mean()).to_numpy()
    expected = [variance_inflation_factor(centred, at) for at in range(3)]
    assert fit.inflation.to_numpy() == pytest.approx(expected, rel=1e-9)


def test_gaps_are_matched_by_model_and_not_by_place(sample):
    features, gap = sample
    fit = regression(features, gap.sample(frac=1, random_state=0))
    pd.testing.assert_frame_equal(fit.models, regression(features, gap).models)


def test_a_network_that_alone_decides_a_coefficient_has_no_distance(sample):
    features, gap = sample
    alone = features.assign(c=(features.index == "m7").astype(float))
    models = regression(alone, gap).models
    assert models.loc["m7", "leverage"] == pytest.approx(1)
    assert abs(models.loc["m7", "residual"]) < 1e-12
    assert models.drop(index="m7")["cooks_distance"].notna().all()


def test_what_cannot_be_fitted_is_refused_with_the_reason(sample):
    features, gap = sample
    few = features.iloc[:4]
    with pytest.raises(GengapError, match="4 models cannot tell 3 features.*give 5 models"):
        regression(few, gap, folds=2)
    with pytest.raises(GengapError, match="10 folds of 6 models; give 2 to 6"):
        regression(features.iloc[:6], gap)
    with pytest.raises(GengapError, match="'b' is the same for all models"):
        regression(features.assign(b=0.1), gap)
    with pytest.raises(GengapError, match="of 4 features only 3 are independent"):
        regression(features.assign(d=features["a"] - 2 * features["c"]), gap)
    with pytest.raises(GengapError, match="no features"):
        regression(features[[]], gap)
    with pytest.raises(GengapError, match="'m3' has no finite value of 'c'"):
        regression(
            features.where((features.index != "m3")[:, None] | (features.columns != "c")), gap
        )
    with pytest.raises(GengapError, match="'m5' has no gap"):
        regression(features, gap.drop("m5"))
    with pytest.raises(GengapError, match="all 40 gaps are 0.1"):
        regression(features, gap * 0 + 0.1)


# Across families


@pytest.fixture
def families(sample):
    """Two families of one linear relation, the gaps of the second 0.5 larger, and a tiny third."""
    features, gap = sample
    family = pd.Series(["one"] * 20 + ["two"] * 17 + ["tiny"] * 3, features.index)
    return features, gap.mask(family == "two", gap + 0.5), family


def test_transfer_predicts_one_family_by_the_fit_of_another(families):
    features, gap, family = families
    rows = transfer(features, gap, family)
    rows = rows.set_index(["fitted_on", "family", "model_id"]).sort_index()
    one, two = features[family == "one"], features[family == "two"]
    fit = regression(one, gap)
    estimates = fit.coefficients["estimate"]
    expected = estimates["intercept"] + two @ estimates.iloc[1:]
    assert rows.loc[("one", "two"), "predicted"].to_dict() == pytest.approx(expected.to_dict())
    own = rows.loc[("one", "one"), "predicted"]
    assert own.to_dict() == fit.models["out_of_fold"].to_dict()
    assert rows.loc["tiny", "predicted"].isna().all()
    assert rows.loc["tiny", "note"].str.contains("3 models cannot tell 3 features").all()
    assert rows.loc[("one", "tiny"), "predicted"].notna().all()


def test_a_shift_between_families_costs_r2_and_not_rank(families):
    table = transfer_table(transfer(*families)).set_index(["fitted_on", "family"])
    assert len(table) == 9
    pairs = [("one", "two"), ("two", "one")]
    assert (table.loc[pairs, "r2"] < -10).all() and (table.loc[pairs, "kendall_tau"] > 0.6).all()
    assert table.loc[pairs, "mse"].to_numpy() == pytest.approx([0.25, 0.25], abs=0.03)
    assert (table.loc[[("one", "one"), ("two", "two")], "r2"] > 0.7).all()
    assert table.loc["tiny", ["r2", "kendall_tau", "mse"]].isna().all(axis=None)
    assert table.loc[("one", "tiny"), "models"] == 3


# Ablations


@pytest.fixture
def collection():
    """36 networks whose gap is linear in the log of normalized quartiles at h1, and 3 more."""
    levels = list(itertools.product(range(3), range(3), range(2), range(2)))
    index = pd.DataFrame(levels, columns=["hp_width", "hp_decay", "hp_norm", "hp_copy"])
    index = index.assign(hp_twin=index["hp_norm"], hp_none=np.nan, family="nin")
    index["model_id"] = [f"nin/{at}" for at in range(36)]
    generator, margins, variations = np.random.default_rng(0), {}, {}
    for at, model in enumerate(index["model_id"]):
        spread = 0.3 + 0.4 * generator.random()
        draws = np.exp(spread * generator.normal(size=(2, 300)) + 0.3 * generator.normal())
        variations[model] = {"inputs": 1 + at % 3, "h1": float(np.exp(generator.normal()))}
        margins[model] = {"inputs": draws[0], "h1": draws[1] * variations[model]["h1"]}
    rows = signatures(margins, variations)
    features = signature_table(rows, stages=["h1"])
    gap = 0.2 - 0.05 * features["h1", "q1"] - 0.02 * features["h1", "upper_fence"]
    other = pd.DataFrame({"family": "resnet", "model_id": ["r/1", "r/2", "r/3"], "hp_width": 1})
    index = pd.concat([index.assign(gap=gap.to_numpy()), other.assign(gap=[0.1, 0.2, 0.3])])
    return rows, index.reset_index(drop=True)


def test_ablations_have_a_row_for_each_form_of_the_signature_and_find_the_true_one(collection):
    rows, index = collection
    table = ablation_table(rows, index)
    assert len(table) == 3 * 2 * 2 * 2 + 1
    assert (table["family"] == "nin").all() and (table["models"] == 36).all()
    assert (table["note"] == "").all()
    marked = table[table["default"]].drop_duplicates("predictor")
    assert list(marked["predictor"]) == [HIDDEN, "inputs", "h1", BASELINE]
    assert (marked.iloc[:3][["kind", "log", "normalized"]] == ["quartile", True, True]).all(
        axis=None
    )
    signed = table.set_index(["predictor", "kind", "log", "normalized"])
    assert signed.loc[(HIDDEN, "quartile", True, True), "features"] == 10
    true = signed.loc[("h1", "quartile", True, True)]
    assert (true["adjusted_r2"], true["k_fold_r2"]) == pytest.approx((1, 1), abs=1e-9)
    others = signed.drop(index=[("h1", "quartile", True, True), (HIDDEN, "quartile", True, True)])
    assert others["k_fold_r2"].max() < 1 - 1e-4
    fit = regression(
        signature_table(rows, kind="moment", log=False), index.set_index("model_id")["gap"]
    )
    found = signed.loc[(HIDDEN, "moment", False, True)]
    assert (found["adjusted_r2"], found["k_fold_r2"], found["mse"]) == pytest.approx(
        (fit.adjusted_r2, fit.k_fold_r2, fit.mse), rel=1e-9
    )


def test_the_hyper_parameters_of_the_ablations_are_the_baseline_of_all_pages(collection):
    rows, index = collection
    index = index[index["family"] == "nin"]
    # Of 3 x 3 x 2 values; copies are none, a twin tells nothing more, and the empty one nothing.
    assert main_effects(index).shape == (36, 2 + 2 + 1)
    alone = hyperparameters_alone(index)
    row = ablation_table(rows, index).set_index("predictor").loc[BASELINE]
    assert row["k_fold_r2"] == pytest.approx(r2(index["gap"], alone), abs=1e-12)
    assert row["mse"] == pytest.approx(np.mean((index["gap"] - alone) ** 2))
    assert row["default"] and np.isnan(row["adjusted_r2"]) and row["note"] == ""


def test_a_measure_of_the_ablations_is_one_feature_and_its_logarithm_another(collection):
    rows, index = collection
    index = index[index["family"] == "nin"]
    gap = index.set_index("model_id")["gap"]
    values = {"exponential": np.exp(30 * gap), "signed": gap - gap.median()}
    values["negative"] = -values["exponential"]
    measures = pd.concat(
        [v.rename("value").reset_index().assign(measure=k) for k, v in values.items()]
    )
    table = ablation_table(rows, index, measures=measures).set_index(["predictor", "log"])
    assert table.loc[("exponential", True), "k_fold_r2"] == pytest.approx(1, abs=1e-9)
    assert table.loc[("negative", True), "k_fold_r2"] == pytest.approx(1, abs=1e-9)
    assert table.loc[("exponential", False), "k_fold_r2"] < 1 - 1e-4
    assert table.loc[("signed", False), "k_fold_r2"] == pytest.approx(1, abs=1e-9)
    assert "no finite value of 'signed'" in table.loc[("signed", True), "note"]
    assert (table.loc[["exponential", "signed"], "features"] == 1).all()


def test_joint_predictors_span_what_each_of_them_does(collection):
    rows, index = collection
    index = index[index["family"] == "nin"]
    features, gap = signature_table(rows, stages=["h1"]), index.set_index("model_id")["gap"]
    half = pd.DataFrame({"half": features["h1", "q1"]})
    table = joint_table({"whole": features, "half": half}, index, samples=50)
    found = table.set_index("predictors")
    assert list(found.index) == [
        BASELINE,
        EFFECTS,
        "whole",
        "half",
        f"{EFFECTS} + whole",
        f"{EFFECTS} + half",
        "whole + half",
        f"{EFFECTS} + whole + half",
    ]
    # half is a part of the whole; the baseline is no linear regression
    assert list(found["features"].iloc[1:]) == [5, 5, 1, 10, 6, 5, 10]
    alone = r2(gap.to_numpy(), hyperparameters_alone(index))
    assert found.loc[BASELINE, "k_fold_r2"] == pytest.approx(alone, abs=1e-12)
    assert found.loc["whole", "k_fold_r2"] == pytest.approx(1, abs=1e-9)
    assert found.loc["half", "k_fold_r2"] == pytest.approx(regression(half, gap).k_fold_r2)
    assert (found["low"] <= found["k_fold_r2"]).all() and (
        found["k_fold_r2"] <= found["high"]
    ).all()
    assert found.loc["half", "high"] - found.loc["half", "low"] > 0.01


def test_networks_that_lack_a_feature_do_not_count_in_any_set(collection):
    rows, index = collection
    index = index[index["family"] == "nin"]
    features = signature_table(rows, stages=["h1"])
    features.iloc[3, 0] = np.nan
    table = joint_table({"whole": features}, index, samples=50)
    expected = joint_table({"whole": features.drop(index="nin/3")}, index.drop(index=3), samples=50)
    pd.testing.assert_frame_equal(table, expected)


def test_a_network_with_a_note_is_left_out_of_every_row(collection):
    rows, index = collection
    broken = (rows["model_id"] == "nin/4") & (rows["stage"] == "inputs")
    rows.loc[broken, ["value", "note"]] = [np.nan, "4 of 9 margins are positive"]
    table = ablation_table(rows, index)
    assert (table["models"] == 35).all() and (table["left_out"] == 1).all()
    whole = ablation_table(rows[rows["model_id"] != "nin/4"], index)
    pd.testing.assert_frame_equal(table, whole)


def test_a_form_that_cannot_be_fitted_keeps_its_row_with_the_reason(collection):
    rows, index = collection
    few = rows[rows["model_id"].isin(index["model_id"][:11])]
    table = ablation_table(few, index).set_index("predictor")
    assert table.loc[HIDDEN, ["adjusted_r2", "k_fold_r2", "mse"]].isna().all(axis=None)
    assert table.loc[HIDDEN, "note"].str.contains("11 models cannot tell 10 features").all()
    assert table.loc["h1", "adjusted_r2"].notna().all()
    assert (table["left_out"] == 25).all()


def test_networks_that_fit_are_the_better_half_of_a_family_in_which_few_fit():
    accuracy = np.linspace(0.9, 1, 101)
    index = pd.DataFrame({"family": "a", "train_accuracy": accuracy})
    few = pd.DataFrame({"family": "b", "train_accuracy": accuracy - 0.5})
    found = that_fit(pd.concat([index, few], ignore_index=True), 0.95)
    assert found.tolist() == [*(accuracy >= 0.95), *(accuracy >= np.median(accuracy))]
