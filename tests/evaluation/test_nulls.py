"""The null behind p: what it keeps of a measure, and how often it errs where the truth is known."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gengap.evaluation import baselines
from gengap.evaluation.judgement import judged
from gengap.evaluation.nulls import Design, normal_scores, null_measures
from gengap.evaluation.resampling import permutations

MEASURES = 80  # that say nothing, in each simulation; half as many of twins, which take longest
DEMOGEN = (3, 2, 3, 2, 3)
SIMULATED = {  # sizes of a grid, copies, networks that are missing
    "DEMOGEN, twins": (DEMOGEN, 2, 0),
    "PGDL, 2^5": ((2, 2, 2, 2, 2), 1, 0),
    "PGDL, 4 x 2 x 3": ((4, 2, 3), 1, 0),
    "GenProb, 5 x 3 x 4": ((5, 3, 4), 1, 0),
    "a grid with holes": (DEMOGEN, 1, 15),
    "a tenth of a grid": ((3, 3, 3, 3, 3), 1, 219),
    "zoo, drawn": None,
}


@pytest.fixture(autouse=True)
def small_forests(monkeypatch):
    monkeypatch.setattr(baselines, "TREES", 3)


def grid(sizes, copies=1, missing=0, seed=0):
    """The levels of a grid's networks (n, H), without some of them; copies follow each other."""
    points = np.array([*itertools.product(*map(range, sizes))])
    kept = np.sort(np.random.default_rng(seed).permutation(len(points))[missing:])
    return np.repeat(points[kept], copies, axis=0)


def zoo(seed=0, networks=100):
    """Four hyper-parameters drawn at random and three of few values."""
    generator = np.random.default_rng(seed)
    drawn = generator.uniform(-1, 1, size=(networks, 4))
    return np.column_stack([drawn, generator.integers([2, 3, 5], size=(networks, 3))])


def index_of(points, gap=None, copies=1):
    n = len(points)
    rows = {"model_id": [f"f/{at}" for at in range(n)], "family": "f", "epoch": math.nan}
    rows |= {"train_accuracy": 1.0, "train_loss": 0.1, "test_loss": math.nan}
    rows |= {f"hp_{at}": column for at, column in enumerate(points.T)}
    if copies > 1:
        rows["hp_copy"] = np.arange(n) % copies
    gap = np.arange(n) / n if gap is None else gap
    return pd.DataFrame(rows | {"gap": gap, "test_accuracy": 1.0 - gap})


def functions(points, generator):
    """(n, H) a random function of each hyper-parameter: of levels any, of numbers a smooth one."""
    found = []
    for column in points.T:
        if len(np.unique(column)) > 10:
            waves = np.cos(np.pi * np.outer(column, [0.5, 1]) + generator.uniform(0, 6, 2))
            found.append(waves @ generator.normal(size=2))
        else:
            found.append(generator.normal(size=int(column.max()) + 1)[column.astype(int)])
    return np.column_stack(found)


def settings_of(points):
    return np.unique(points, axis=0, return_inverse=True)[1].ravel()


def simulated(design):
    """Index of a design whose gap is functions of settings, products of them and some noise."""
    if SIMULATED[design] is None:
        points, copies = zoo(), 1
    else:
        sizes, copies, missing = SIMULATED[design]
        points = grid(sizes, copies, missing)
    generator, setting = np.random.default_rng(5), settings_of(points)
    parts = functions(points, generator)
    signal = parts.sum(axis=1) + 0.5 * parts[:, 0] * parts[:, 1]
    noise = 0.5 * generator.normal(size=len(points))[setting] if copies > 1 else 0
    signal = signal / signal.std() + noise
    return points, index_of(points, signal + 0.1 * generator.normal(size=len(points)), copies)


def silent(kind, points, generator):
    """A measure that says nothing."""
    if kind == "noise of each network":
        return generator.normal(size=len(points))
    if kind == "noise of each setting":
        return generator.normal(size=len(points))[settings_of(points)]
    return functions(points, generator).sum(axis=1)


KINDS = ("noise of each network", "noise of each setting", "functions of hyper-parameters")


def many(kind, points, index, count):
    generator = np.random.default_rng(KINDS.index(kind))
    columns = {f"m{at}": silent(kind, points, generator) for at in range(count)}
    return pd.DataFrame(columns, index=pd.Index(index["model_id"]))


def noise(count):
    """Three standard deviations of a share of 5 % among so many."""
    return 3 * math.sqrt(0.05 * 0.95 / count)


def of_measures(values, index, **options):
    found = judged(values, index, scores=["kendall_tau"], **options).set_index("measure")
    return found.loc[values.columns]


# By simulation


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("design", SIMULATED)
def test_measures_that_say_nothing_are_beyond_chance_no_more_often_than_promised(design, kind):
    points, index = simulated(design)
    values = many(kind, points, index, MEASURES // (2 if "twins" in design else 1))
    most = 0.05 + noise(values.shape[1])
    found = of_measures(values, index, samples=2, permutations=399)
    assert (found["p_value"] < 0.05).mean() <= most
    assert (found["p_adjusted"] < 0.05).mean() <= most
    if kind == KINDS[2]:  # what shuffling all networks made of them
        assert (found["value"] > found["null_95"]).mean() > most


@pytest.mark.parametrize(
    ("copies", "low", "high"), [(2, 0.95 - noise(150), 1), (1, 0, 0.95 - noise(150))]
)
def test_intervals_hold_nothing_where_copies_are_drawn_together(copies, low, high):
    points, index = simulated("DEMOGEN, twins")
    index = index if copies > 1 else index.drop(columns="hp_copy")
    values = many(KINDS[1], points, index, 150)
    found = of_measures(values, index, samples=100, permutations=1)
    assert low <= ((found["low"] <= 0) & (found["high"] >= 0)).mean() <= high


def test_settings_alone_are_right_in_all_directions_by_chance_and_what_is_beside_them_is_found():
    points, generator = grid((2, 2, 2, 2, 2)), np.random.default_rng(0)
    effects, noise = points @ [16.0, 8, 4, 2, 1], 6 * generator.normal(size=(2, 32))
    index = index_of(points, effects + noise[0])
    measures = {"both": effects + noise[0] + 0.3 * noise[1], "settings": effects, "wrong": -effects}
    values = pd.DataFrame(measures, index=pd.Index(index["model_id"]))
    found = judged(values, index, scores=["pearson"], samples=2, permutations=999)
    p = found.set_index("measure")["p_value"]
    spread = math.sqrt(1 / 32 * 31 / 32 / 999)
    assert p["settings"] == pytest.approx(1 / 32, abs=4 * spread)
    assert p["both"] <= 0.003
    assert p["wrong"] > 0.9


# By hand


def drawn(measure, points, count=500):
    design, generator = Design.of(index_of(points)), np.random.default_rng(1)
    signs = generator.choice([-1.0, 1.0], size=(count, len(design.effects)))
    orders = permutations(len(points), count, generator)
    return null_measures(measure, design, signs, orders)


def standardized(measure):
    return (measure - measure.mean()) / measure.std()


@pytest.mark.parametrize("missing", [0, 11])
def test_functions_of_hyper_parameters_have_random_signs_on_complete_and_incomplete_grids(missing):
    points = grid((3, 2, 4), copies=2, missing=missing)
    parts = functions(points, np.random.default_rng(2))
    found = {tuple(row) for row in drawn(parts.sum(axis=1), points)}
    parts -= parts.mean(axis=0)
    signed = [parts @ signs for signs in itertools.product([-1, 1], repeat=3)]
    expected = {tuple((row / signed[-1].std()).round(9) + 0.0) for row in signed}
    assert np.array(sorted(found)) == pytest.approx(np.array(sorted(expected)), abs=1e-8)


def test_without_hyper_parameters_null_measures_are_permutations():
    measure = np.random.default_rng(0).integers(5, size=20) * 1.0
    found = drawn(measure, np.empty((20, 0)))
    assert np.sort(found) == pytest.approx(
        np.tile(np.sort(standardized(measure)), (500, 1)), abs=1e-8
    )


def test_null_measures_of_a_grid_vary_as_much_as_the_measure_and_copies_stay_alike():
    points, generator = grid((3, 2, 2), copies=3), np.random.default_rng(0)
    setting = settings_of(points)
    alike = generator.normal(size=12)[setting]
    for measure in (alike, generator.normal(size=36)):
        found = drawn(measure, points)
        assert found.std(axis=1) == pytest.approx(np.ones(500))
        means = found.reshape(500, 12, 3).mean(axis=2)
        expected = standardized(measure).reshape(12, 3).mean(axis=1)
        assert (means**2).sum(axis=1) == pytest.approx((expected**2).sum())
    assert (np.ptp(drawn(alike, points).reshape(500, 12, 3), axis=2) < 1e-8).all()


def test_a_constant_measure_stays_constant_and_normal_scores_are_quantiles_of_ranks():
    assert not drawn(normal_scores(np.full(12, 3.0)), grid((3, 2, 2))).any()
    expected = stats.norm.ppf([0.125, 0.5, 0.5, 0.875])
    assert normal_scores(np.array([-7.0, 1, 1, math.inf])) == pytest.approx(expected)
