"""Verdicts follow from intervals; the zoo's claims are about the fits they name."""

import numpy as np
import pandas as pd
import pytest

from gengap.evaluation.regression import r2
from gengap.studies.claims import Found, claim, claim_table, lead, tally, verdict
from gengap.studies.zoo_claims import CLAIMS, claims

ABOVE, BELOW, ACROSS = Found(0.5, 0.3, 0.7), Found(-0.5, -0.7, -0.3), Found(0.1, -0.1, 0.3)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([ABOVE, ABOVE], "holds"),
        ([BELOW, BELOW], "fails"),
        ([ABOVE, BELOW], "depends"),
        ([ABOVE, ACROSS], "depends"),
        ([BELOW, ACROSS], "depends"),
        ([], "not tested"),
    ],
)
def test_a_verdict_needs_the_intervals_of_all_families(numbers, expected):
    row = claim("It is positive", ".4", dict(zip("ab", numbers, strict=False)), "There")
    assert row["verdict"] == expected


def test_the_bound_counts():
    assert claim("c", "", {"a": ABOVE}, "s", above=0.25)["verdict"] == "holds"
    assert claim("c", "", {"a": ABOVE}, "s", above=0.4)["verdict"] == "depends"
    assert claim("c", "", {"a": ABOVE}, "s", above=0.8)["verdict"] == "fails"


def test_a_row_tells_number_and_interval():
    table = claim_table([claim("c", "a figure", {"nin": ABOVE}, "There")])
    expected = {"published": "a figure", "nin": "0.50 [0.30, 0.70]", "verdict": "holds"}
    assert table.loc["c"].to_dict() == expected | {"shown in": "There"}


def test_a_lead_is_over_the_best_of_the_others_and_its_interval_a_bootstrap():
    target = np.random.default_rng(0).normal(1, 1, 400)

    def mean_of_product(x, y):
        return (x * y).mean()

    alone = lead(mean_of_product, target, [np.ones(400)])
    assert alone.value == pytest.approx(target.mean())
    assert (alone.high - alone.low) / 2 == pytest.approx(1.96 / 20, rel=0.15)
    rivals = [np.full(400, factor) for factor in (3.0, 1.0, 2.0)]
    assert lead(mean_of_product, target, rivals).value == pytest.approx(target.mean())


def test_equal_rivals_are_hardly_ever_said_to_be_ahead_or_behind():
    """Of truly equal ones the claim must not fail more often than an interval may miss."""
    rng, verdicts = np.random.default_rng(0), []
    for _ in range(60):
        target = rng.normal(size=100)
        columns = [target + rng.normal(size=100) for _ in range(4)]
        number = lead(lambda x, y: np.corrcoef(x, y)[0, 1], target, columns, samples=300)
        verdicts.append(verdict([number], 0.0))
    assert verdicts.count("depends") >= 55


def zoo_predictions(quality):
    """Leak-free predictions whose R2 is near 1 - noise**2, by predictor and inputs."""
    rng = np.random.default_rng(0)
    target, parts = rng.normal(size=300), []
    for (predictor, inputs), noise in quality.items():
        part = pd.DataFrame({"target": target, "leak_free": target + noise * rng.normal(size=300)})
        parts.append(part.assign(family="mnist", predictor=predictor, inputs=inputs))
    return pd.concat(parts)


def test_the_zoos_claims_compare_the_fits_that_they_name():
    fits = {fit for _, _, one, others, _ in CLAIMS for fit in (one, *others)}
    stats = CLAIMS[0][2]
    noise = dict.fromkeys(fits, 0.5) | {stats: 0.1, CLAIMS[-1][2]: 0.7}  # R2 .75, .99, .5
    predictions = zoo_predictions(noise)
    transfers = pd.DataFrame(
        {
            "trained_on": "mnist",
            "tested_on": ["mnist", "cifar10", "fashion_mnist", "cifar10"],
            "reading": ["leak_free", "leak_free", "leak_free", "leaky"],
            "tau": [0.9, 0.4, 0.5, 0.1],
            "low": [0.8, 0.3, 0.4, -0.2],
            "high": [0.95, 0.5, 0.6, 0.3],
        }
    )
    published = pd.Series({("mnist", *fit): 0.5 for fit in fits} | {("mnist", *stats): 0.75})
    table = claims(predictions, transfers, published)
    assert list(table["verdict"]) == [
        "holds", "holds", "depends", "holds", "holds", "fails", "holds",
    ]  # fmt: skip
    assert list(table["published"])[:3] == ["0.75 to 0.75", "0.25 to 0.25", "0.00 to 0.00"]
    one = predictions[predictions["inputs"] == stats[1]].query("predictor == 'lgbm'")
    assert table["mnist"].iloc[0].startswith(f"{r2(one['target'], one['leak_free']):.2f} [")
    assert table["mnist"].iloc[-1] == "0.40 [0.30, 0.50]"
    table = claims(predictions, transfers[transfers["tested_on"] == "mnist"], published)
    assert table["verdict"].eq("not tested").tolist() == 6 * [False] + [True]  # one data set


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["holds", "fails", "holds"], "2 hold and 1 fails"),
        (["depends"], "1 depends on the networks"),
        (["fails", "depends", "holds"], "1 holds, 1 depends on the networks and 1 fails"),
        (["not tested", "holds"], "1 holds"),
        (["not tested"], "none"),
    ],
)
def test_verdicts_are_counted_in_words(verdicts, expected):
    assert tally(pd.Series(verdicts)) == expected
