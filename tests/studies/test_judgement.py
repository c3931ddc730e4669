"""Judged families are kept, and judged again when anything changes that their rows depend on."""

import numpy as np
import pandas as pd
import pytest

from gengap.evaluation.judgement import judged
from gengap.folders import repository
from gengap.studies.judgement import kept_judgement
from gengap.studies.pgdl import official_scores
from gengap.tables.identity import source_hash

FEW = {"samples": 5, "permutations": 5}
KEPT = {"table": "some.judgement", "workers": 1, **FEW}


@pytest.fixture(autouse=True)
def grids(data_folder):
    """Two families of 24 networks on a grid of two hyper-parameters, and two measures of them."""
    rng, n = np.random.default_rng(0), 24
    families = [
        pd.DataFrame(
            {
                "model_id": [f"{name}/{i}" for i in range(n)],
                "family": name,
                "hp_depth": np.arange(n) % 4,
                "hp_width": np.arange(n) // 4,
                "train_accuracy": 1.0,
                "test_accuracy": 0.9 - 0.1 * rng.random(n),
                "train_loss": rng.random(n),
            }
        )
        for name in ("one", "two")
    ]
    index = pd.concat(families, ignore_index=True)
    values = pd.DataFrame(rng.random((2 * n, 2)), index["model_id"], ["a", "b"])
    values.loc["two/3", "b"] = np.nan
    return values, index


def nothing_more(monkeypatch):
    monkeypatch.setattr("gengap.tables.fits._called", None)


@pytest.mark.parametrize("judge", [judged, official_scores])
def test_kept_rows_are_those_of_judging_all_families_at_once(grids, judge, monkeypatch):
    expected = judge(*grids, **FEW)
    pd.testing.assert_frame_equal(kept_judgement(*grids, judge=judge, **KEPT), expected)
    nothing_more(monkeypatch)
    again = kept_judgement(*grids, judge=judge, **KEPT)
    pd.testing.assert_frame_equal(again, expected, check_exact=True)


def test_a_family_is_judged_again_when_its_networks_values_or_options_change(grids, monkeypatch):
    values, index = grids
    kept_judgement(values, index, **KEPT)
    nothing_more(monkeypatch)
    one = index[index["family"] == "one"]
    kept_judgement(values, one, **KEPT)  # whatever other families there are
    others = one.assign(test_accuracy=one["test_accuracy"] / 2)
    for changed in ((values * 2, one), (values, others), (values[["a"]], one), (values, one[1:])):
        with pytest.raises(TypeError, match="NoneType"):
            kept_judgement(*changed, **KEPT)
    for options in ({"samples": 6}, {"seed": 1}, {"scores": ["cmi"]}, {"judge": official_scores}):
        with pytest.raises(TypeError, match="NoneType"):
            kept_judgement(values, one, **{**KEPT, **options})


@pytest.mark.parametrize("collection", ["cnnzoo", "pgdl", "demogen", "genprob"])
def test_shipped_rows_are_of_the_code_that_judges_now(collection):
    kept = pd.read_parquet(repository() / "data" / "tables" / f"{collection}.judgement.parquet")
    judges = [judged, official_scores] if collection == "pgdl" else [judged]
    expected = {judge.__name__: {source_hash(judge)} for judge in judges}
    assert kept.groupby("measure")["source"].agg(set).to_dict() == expected
