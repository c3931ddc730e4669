"""The competition's score against its own numbers and a literal program, the others by hand."""

import csv
import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gengap import GengapError
from gengap.evaluation.samples import Sample
from gengap.evaluation.scores import (
    SCORES,
    cmi,
    conditional_mutual_information,
    granulated_tau,
    kendall_tau,
    pearson,
    plain_tau,
    random_scores,
)
from gengap.evaluation.tasks import official_task, read_task, task_of, values_of

TASKS = ("task1_v4", "task2_v1")


@pytest.fixture(scope="session")
def toy(reference):
    """The official sample task: its configurations, and predictions with their official scores."""
    folder = reference / "golden" / "pgdl"
    configs = folder / "reference_data" / "toy_data" / "model_configs.json"
    scored = (folder / "official_scores_toy_data.json").read_text()
    return json.loads(configs.read_text()), json.loads(scored)


@pytest.fixture(scope="session", params=TASKS)
def real(reference, request):
    """A real task: its configurations, a team's measures of it, their official scores."""
    folder = reference / "pgdl_participants"
    specs = json.loads((folder / f"{request.param}_model_configs.json").read_text())
    models = pd.read_csv(folder / f"{request.param}_models.csv")
    models.index = [f"model_{number}" for number in models["model_id"]]
    measures = models.filter(regex="^measure").rename(columns=lambda name: name[len("measure.") :])
    with (folder / "published_scores.csv").open() as file:
        published = {
            row["measure"]: row for row in csv.DictReader(file) if row["task"] == request.param
        }
    return specs, measures, published


def grid(*sizes, gap, names=None):
    """Configurations of a complete grid with this gap, as the competition writes them."""
    names = names or [
        [f"{'abcdefgh'[at]}{level}" for level in range(n)] for at, n in enumerate(sizes)
    ]
    specs = {}
    for number, (values, value) in enumerate(zip(itertools.product(*names), gap, strict=True)):
        hparams = {
            f"h{at}": {"possible_values": list(names[at]), "current_value": chosen}
            for at, chosen in enumerate(values)
        }
        specs[str(number)] = {"hparams": hparams, "metrics": {"gen_gap": float(value)}}
    return specs


def predictions(values):
    return {f"model_{number}": float(value) for number, value in enumerate(values)}


def literal_score(given, specs):
    """The definition word by word, in plain Python: dictionaries, strings, loops."""
    first = next(iter(specs.values()))["hparams"]
    least = math.inf
    for h1, h2 in itertools.permutations(first, 2):
        keys = [
            str(a) + str(b) + str(c) + str(d)
            for a, b in itertools.product(first[h1]["possible_values"], repeat=2)
            for c, d in itertools.product(first[h2]["possible_values"], repeat=2)
        ]
        places = {key: place for place, key in enumerate(keys)}
        tables = [[[0, 0], [0, 0]] for _ in keys]
        for one, two in itertools.product(specs, repeat=2):
            key = ""
            for name in (h1, h2):
                key += str(specs[one]["hparams"][name]["current_value"])
                key += str(specs[two]["hparams"][name]["current_value"])
            gap = specs[one]["metrics"]["gen_gap"] > specs[two]["metrics"]["gen_gap"]
            measure = given[f"model_{one}"] > given[f"model_{two}"]
            tables[places[key]][gap][measure] += 1
        pairs = [told_and_whole(table) for table in tables]
        told, whole = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
        least = min(told / whole, least)
    return least


def told_and_whole(table):
    total = sum(map(sum, table))
    if total == 0:
        return math.nan, math.nan
    shares = [[count / total for count in row] for row in table]
    rows, columns = [sum(row) for row in shares], [sum(column) for column in zip(*shares)]
    told = 0.0
    for i, j in itertools.product((0, 1), repeat=2):
        if shares[i][j] > 0:
            told += shares[i][j] * math.log2(shares[i][j] / (rows[i] * columns[j]))
    return told, -sum(share * math.log2(share + 1e-12) for share in rows)


# The competition's own numbers


def test_the_toy_task_scores_as_the_official_program_says(toy):
    specs, scored = toy
    for name, known in scored.items():
        found = 100 * conditional_mutual_information(known["predictions"], specs)
        assert found == pytest.approx(known["score_x100"], rel=0, abs=1e-10), name


def test_the_real_tasks_score_as_published_to_twelve_digits(real):
    specs, measures, published = real
    assert set(published) == set(measures)
    for name, row in published.items():
        found = conditional_mutual_information(measures[name].to_dict(), specs)
        assert round(found, 12) == float(row["published_cmi"]), name


def test_the_real_tasks_correlate_as_published_to_twelve_digits(real):
    specs, measures, published = real
    task = read_task(specs)
    known = [name for name, row in published.items() if row["published_abs_pearson"]]
    assert known
    for name in known:
        found = abs(pearson(values_of(measures[name].to_dict(), task), task))
        assert found == pytest.approx(float(published[name]["published_abs_pearson"]), abs=1e-12)


# The definition


@pytest.mark.parametrize("sizes", [(2, 2), (3, 2), (2, 3, 1), (2, 2, 2, 2), (4, 3, 2)])
def test_random_grids_with_ties_score_as_the_literal_program_does(sizes):
    generator = np.random.default_rng(sum(sizes))
    for levels in (2, 5, 1000):
        for _ in range(5):
            gap, measure = generator.integers(levels, size=(2, math.prod(sizes)))
            specs, given = grid(*sizes, gap=gap), predictions(measure)
            expected = literal_score(given, specs)
            found = conditional_mutual_information(given, specs)
            assert found == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_nan_is_larger_than_nothing_as_python_compares_it():
    generator = np.random.default_rng(0)
    specs = grid(3, 2, 2, gap=generator.normal(size=12))
    measure = generator.normal(size=12)
    measure[[2, 7]] = np.nan, np.inf
    found = conditional_mutual_information(predictions(measure), specs)
    assert found == pytest.approx(literal_score(predictions(measure), specs), rel=1e-12)
    assert conditional_mutual_information(predictions([np.nan] * 12), specs) == 0


@pytest.mark.parametrize(
    "names",
    [
        [[1, 11], ["a", "b"], [0, 1]],  # 1 and 11 against 11 and 1: two cells written 111
        [[0, 1], ["a", "b"], [1, 11]],
        [[0, 1], [1, 11], ["a", "b"]],
        [[1, 11], [1, 2], [0, 1]],
    ],
)
def test_cells_written_alike_count_as_one_and_the_other_is_undefined(names):
    generator = np.random.default_rng(1)
    gap, measure = generator.normal(size=(2, 8))
    specs, given = grid(2, 2, 2, gap=gap, names=names), predictions(measure)
    expected, found = literal_score(given, specs), conditional_mutual_information(given, specs)
    assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_a_nan_pair_is_the_score_only_if_it_comes_last():
    gap = [3, 1, 4, 2, 5, 9, 2.5, 6]
    last = grid(2, 2, 2, gap=gap, names=[["a", "b"], [0, 1], [1, 11]])
    first = grid(2, 2, 2, gap=gap, names=[[1, 11], [0, 1], ["a", "b"]])
    assert math.isnan(conditional_mutual_information(predictions(gap), last))
    assert conditional_mutual_information(predictions(gap), first) == pytest.approx(1)


def test_eight_networks_by_hand():
    # Gaps 4 a + 2 b + c; the measure is wrong in c alone. Given a and b, the sign is a matter of
    # course in twelve cells; each of the four cells of equals holds two networks with themselves,
    # (-, -), and with each other, (+, -) and (-, +). Other conditions leave more to tell.
    a, b, c = (np.arange(8) >> shift & 1 for shift in (2, 1, 0))
    specs = grid(2, 2, 2, gap=4 * a + 2 * b + c)
    told = 0.5 * math.log2(0.5 / 0.75**2) + 2 * 0.25 * math.log2(0.25 / (0.25 * 0.75))
    whole = 0.75 * math.log2(1 / 0.75) + 0.25 * math.log2(1 / 0.25)
    found = conditional_mutual_information(predictions(4 * a + 2 * b + 1 - c), specs)
    assert found == pytest.approx(told / whole, abs=1e-9)


def test_two_hyper_parameters_leave_nothing_to_tell():
    # Each cell holds one pair: even the perfect predictor scores 0.
    gap = np.arange(6.0)
    assert conditional_mutual_information(predictions(gap), grid(3, 2, gap=gap)) == 0


def test_a_hyper_parameter_of_one_value_adds_conditions():
    # It adds conditioning on one of the others alone, which can only lower the least.
    generator = np.random.default_rng(2)
    lower = 0
    for _ in range(20):
        gap, measure = generator.normal(size=(2, 8))
        plain = conditional_mutual_information(predictions(measure), grid(2, 2, 2, gap=gap))
        more = conditional_mutual_information(predictions(measure), grid(1, 2, 2, 2, gap=gap))
        assert more <= plain + 1e-12
        lower += more < plain - 1e-3
    assert lower > 0


def test_gaps_may_be_given_as_accuracies_and_ids_with_their_prefix():
    gap = np.random.default_rng(3).normal(size=12)
    specs, given = grid(2, 3, 2, gap=gap), predictions(np.random.default_rng(4).normal(size=12))
    expected = conditional_mutual_information(given, specs)
    accuracies = {
        f"model_{name}": {
            **spec,
            "metrics": {"train_acc": spec["metrics"]["gen_gap"], "test_acc": 0},
        }
        for name, spec in specs.items()
    }
    assert conditional_mutual_information(given, accuracies) == expected


# What the score cannot tell


def test_a_perfect_predictor_scores_one_and_any_increasing_map_of_it_too(real):
    task = read_task(real[0])
    assert cmi(task.gap, task) == pytest.approx(1, abs=1e-9)
    assert cmi(np.exp(9 * task.gap), task) == pytest.approx(1, abs=1e-9)


def test_the_score_is_nearly_blind_to_the_measures_sign(real):
    specs, measures, _ = real
    task = read_task(specs)
    assert cmi(-task.gap, task) > 0.8
    measure = values_of(measures["RBF_smoothness_max"].to_dict(), task)
    assert cmi(-measure, task) > 0.75 * cmi(measure, task) > 0.2
    assert kendall_tau(-measure, task) == pytest.approx(-kendall_tau(measure, task))


def test_random_measures_score_higher_on_smaller_tasks():
    generator = np.random.default_rng(0)
    means = []
    for sizes in ((2, 2, 2), (2, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 2, 2, 2, 2)):
        specs = grid(*sizes, gap=generator.normal(size=math.prod(sizes)))
        means.append(random_scores(read_task(specs), draws=300).mean())
    assert means == sorted(means, reverse=True)
    assert means[0] > 0.05
    assert 0 < means[-1] < 0.01


def test_random_scores_are_those_of_permutations_and_repeat_with_their_seed(toy):
    task = read_task(toy[0])
    found = random_scores(task, draws=100, seed=2)
    assert found.shape == (100,)
    assert np.array_equal(found, random_scores(task, draws=100, seed=2))
    assert 0.10 < found.mean() < 0.18  # three by hand: 0.064, 0.143, 0.160


# The other scores


def tied(task, seed):
    return np.random.default_rng(seed).integers(6, size=len(task.gap)).astype(float)


def test_tau_equals_scipys_with_ties_whether_by_pairs_or_by_sorting(toy):
    task = read_task(toy[0])
    for seed in range(5):
        expected = stats.kendalltau(tied(task, seed), task.gap).statistic
        assert plain_tau(tied(task, seed), task.gap) == expected
        assert kendall_tau(tied(task, seed), task) == pytest.approx(expected, abs=1e-12)


def test_pearson_equals_numpys_and_is_nan_for_a_constant(toy):
    task = read_task(toy[0])
    expected = np.corrcoef(tied(task, 0), task.gap)[0, 1]
    assert pearson(tied(task, 0), task) == pytest.approx(expected, abs=1e-12)
    for score in (pearson, kendall_tau):
        assert np.isnan(score(np.full(len(task.gap), 0.1), task))


@pytest.mark.parametrize("scale", [1e-290, 1e-170, 1e170, 1e290])
def test_pearson_is_blind_to_a_scale_however_small_or_large(toy, scale):
    task = read_task(toy[0])
    measure = tied(task, 0)
    assert pearson(scale * measure, task) == pytest.approx(pearson(measure, task), rel=1e-12)


def test_granulated_tau_is_the_mean_of_taus_within_groups():
    # Rows are h0, columns h1: gaps, then a measure that is right along h0 and wrong along h1.
    gap = np.array([[1, 2, 3], [4, 5, 6]])
    measure = np.array([[3, 2, 1], [6, 5, 4]])
    task = read_task(grid(2, 3, 1, gap=gap.ravel()))
    assert granulated_tau(measure.ravel(), task) == pytest.approx((1 - 1) / 2)
    measure[0] = 2, 2, 7  # along h0: 1, 1, -1; along h1: (0 + 1 + 1) / 3 and -1
    expected = ((1 + 1 - 1) / 3 + (2 / 3 - 1) / 2) / 2
    assert granulated_tau(measure.ravel(), task) == pytest.approx(expected)


def test_granulated_tau_equals_scipys_taus_on_a_grid_without_ties():
    generator = np.random.default_rng(8)
    gap, measure = generator.normal(size=(2, 3, 4, 2))
    psi = []
    for axis in range(3):
        groups = [
            np.moveaxis(part, axis, -1).reshape(-1, gap.shape[axis]) for part in (gap, measure)
        ]
        psi.append(np.mean([stats.kendalltau(*pair).statistic for pair in zip(*groups)]))
    task = read_task(grid(3, 4, 2, gap=gap.ravel()))
    assert granulated_tau(measure.ravel(), task) == pytest.approx(np.mean(psi), abs=1e-12)


# Many at once, and drawn networks


@pytest.mark.parametrize("name", SCORES)
def test_many_measures_at_once_score_as_each_alone(toy, name):
    task, score = read_task(toy[0]), SCORES[name].score
    measures = np.random.default_rng(0).integers(9, size=(70, 2, len(task.gap)))
    found = score(measures, task)
    assert found.shape == (70, 2)
    for at in ((0, 0), (31, 1), (32, 0), (69, 1)):
        assert found[at] == pytest.approx(score(measures[at], task), abs=1e-14, nan_ok=True)


@pytest.mark.parametrize("name", SCORES)
def test_each_network_drawn_once_is_the_task_itself(toy, name):
    task, score = read_task(toy[0]), SCORES[name].score
    once = np.ones((3, len(task.gap)))
    assert score(tied(task, 0), Sample(task, once)) == pytest.approx(
        [score(tied(task, 0), task)] * 3, nan_ok=True
    )


def test_drawn_networks_weigh_as_their_copies_in_taus_and_correlations(toy):
    task = read_task(toy[0])
    draws = np.random.default_rng(0).multinomial(18, np.full(18, 1 / 18))
    measure, gap = (np.repeat(values, draws) for values in (tied(task, 1), task.gap))
    sample = Sample(task, draws[None])
    assert pearson(tied(task, 1), sample) == pytest.approx(np.corrcoef(measure, gap)[0, 1])
    expected = stats.kendalltau(measure, gap).statistic
    assert kendall_tau(tied(task, 1), sample) == pytest.approx(expected)


def test_drawn_pairs_weigh_as_their_copies_in_the_competitions_score():
    generator = np.random.default_rng(5)
    gap, measure = generator.normal(size=(2, 8))
    task = read_task(grid(2, 2, 2, gap=gap))
    draws = np.array([2, 1, 0, 3, 1, 1, 1, 2])
    least = math.inf
    for h1, h2 in itertools.combinations(range(3), 2):
        tables = {}
        for one, two in itertools.product(range(8), repeat=2):
            key = (*task.levels[one, [h1, h2]], *task.levels[two, [h1, h2]])
            weight = draws[one] if one == two else draws[one] * draws[two]
            signs = tables.setdefault(key, [[0, 0], [0, 0]])
            signs[int(gap[one] > gap[two])][int(measure[one] > measure[two])] += weight
        pairs = [told_and_whole(table) for table in tables.values() if sum(map(sum, table))]
        least = min(least, sum(told for told, _ in pairs) / sum(whole for _, whole in pairs))
    assert cmi(measure, Sample(task, draws[None])) == pytest.approx(least, rel=1e-12)


# Tasks


def test_index_rows_make_the_same_task_as_configurations(toy):
    specs, scored = toy
    rows = [
        {
            "model_id": f"toy/model_{name}",
            "family": "toy",
            "train_accuracy": spec["metrics"]["train_acc"],
            "test_accuracy": spec["metrics"]["test_acc"],
            **{f"hp_{hp}": at["current_value"] for hp, at in spec["hparams"].items()},
            "hp_of_another_family": np.nan,
        }
        for name, spec in specs.items()
    ]
    task, official = official_task(pd.DataFrame(rows)), read_task(specs)
    assert set(task.possible) == set(official.possible)
    measure = values_of(scored["dist_init"]["predictions"], official)
    for name, score in SCORES.items():
        found = score.score(measure, task)
        assert found == pytest.approx(score.score(measure, official), nan_ok=True), name


def index_of(gap, **columns):
    n = len(gap)
    frame = pd.DataFrame({"model_id": [f"f/{at}" for at in range(n)], "family": "f", **columns})
    return frame.assign(train_accuracy=1.0, test_accuracy=1 - np.asarray(gap))


def test_a_task_is_one_family_with_known_gaps():
    rows = index_of([0.1, 0.2], hp_a=[1, 2])
    with pytest.raises(GengapError, match="a task is one family; these 2 rows are of 'f', 'g'"):
        task_of(rows.assign(family=["f", "g"]))
    with pytest.raises(GengapError, match="'f/1' has no gap"):
        task_of(rows.assign(test_accuracy=[0.5, np.nan]))


# Mistakes


def damaged(change):
    specs = grid(2, 2, 2, gap=range(8))
    change(specs)
    return specs


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda specs: specs.pop("3"),
            "each of the 8 points of the grid; there are 0 at h0 = a0, ",
        ),
        (lambda specs: specs.update({"9": specs["3"]}), "there are 2 at h0 = a0, h1 = b1, h2 = c1"),
        (
            lambda specs: specs["3"]["hparams"]["h1"].update(current_value="b7"),
            "model_3 has h1 = 'b7', which is not among its possible values",
        ),
        (lambda specs: specs["3"]["metrics"].update(gen_gap=math.nan), "gap of model_3 is nan"),
        (lambda specs: specs["3"].pop("metrics"), r"used \(it lacks 'metrics'\); expected is"),
        (lambda specs: specs["3"]["hparams"].pop("h1"), r"used \(it lacks 'h1'\); expected is"),
        (lambda specs: specs["3"].update(hparams=["b1"]), r"used \(TypeError: list ind"),
        (
            lambda specs: specs["3"]["metrics"].update(gen_gap="3"),
            "gen_gap of model_3 is '3'; give",
        ),
        (
            lambda specs: specs["3"]["metrics"].update(gen_gap=True),
            "gen_gap of model_3 is True; gi",
        ),
        (
            lambda specs: specs["3"].update(metrics={"train_acc": True, "test_acc": 0.5}),
            "train_acc of model_3 is True; give a number",
        ),
        (lambda specs: specs.update(model_3=specs["3"]), "3 and model_3 are one network"),
        (lambda specs: specs.clear(), "configurations are empty"),
    ],
)
def test_configurations_that_are_no_grid_are_refused_with_the_place(change, sentence):
    with pytest.raises(GengapError, match=sentence):
        conditional_mutual_information(predictions(range(8)), damaged(change))


def test_one_hyper_parameter_is_too_few():
    with pytest.raises(GengapError, match="within two hyper-parameters; this task has only h0"):
        conditional_mutual_information(predictions([1, 2]), grid(2, gap=[1, 2]))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda given: given.pop("model_3"), r"1 models have no prediction \(model_3\).*-0.999999"),
        (
            lambda given: given.clear(),
            r"8 models have no prediction \(model_0, model_1, model_2, ...",
        ),
        (lambda given: given.update(model_x=1.0), r"1 models are not of this task \(model_x\)"),
        (
            lambda given: given.update(model_3="EXCEEDED"),
            "for model_3 is 'EXCEEDED'; give a number",
        ),
        (lambda given: given.update(model_3=None), "for model_3 is None; give a number"),
        (lambda given: given.update({"3": 1.0}), "3 and model_3 are one network; keep one"),
        (lambda given: given.update(model_3=10**400), "for model_3 is 10*; give a number"),
    ],
)
def test_predictions_that_do_not_fit_the_task_are_refused(change, sentence):
    given = predictions(range(8))
    change(given)
    with pytest.raises(GengapError, match=sentence):
        conditional_mutual_information(given, grid(2, 2, 2, gap=range(8)))


def test_a_measure_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"shape \(7,\) for 8 networks"):
        cmi(np.arange(7), read_task(grid(2, 2, 2, gap=range(8))))
