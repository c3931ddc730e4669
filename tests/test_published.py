"""Reported numbers are read whole and shown beside ours at the paper's digits."""

import numpy as np
import pandas as pd
import pytest

from gengap.errors import GengapError
from gengap.published import beside, reported

PREDICTORS = ("linear", "lgbm", "dnn")


def test_every_published_file_can_be_read():
    from gengap import folders

    for path in (folders.data() / "published").glob("*.csv"):
        assert len(reported(path.stem)) > 0, path


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(GengapError, match="'cnnzoo_r3'.*cnnzoo_r2"):
        reported("cnnzoo_r3")


def test_every_reported_r2_has_its_configuration():
    scores = reported("cnnzoo_r2")
    for predictor in PREDICTORS:
        configs = reported(f"cnnzoo_{predictor}_configs")
        pairs = scores[scores.predictor == predictor][["collection", "inputs"]]
        merged = pairs.merge(configs, on=["collection", "inputs"], validate="one_to_one")
        assert len(merged) == len(pairs) == len(configs) == 56


def test_lightgbm_configurations_for_all_layers_are_the_released_ones(reference):
    released = pd.read_json(reference / "published" / "cnnzoo_lgbm_configs.json", orient="index")
    configs = reported("cnnzoo_lgbm_configs")
    all_layers = configs[configs.inputs == "wstats-layers:0,1,2,3-qts:0,25,50,75,100"]
    ours = all_layers.set_index("collection").drop(columns="inputs")
    pd.testing.assert_frame_equal(ours, released, check_names=False, check_dtype=False, rtol=1e-15)


def test_reported_r2_values_are_the_transcribed_ones(reference):
    pd.testing.assert_frame_equal(
        reported("cnnzoo_r2"), pd.read_csv(reference / "published" / "cnnzoo_r2.csv")
    )


def test_beside_matches_rows_by_index_and_rounds_to_the_papers_digits():
    papers = pd.Series({"a": 0.123456, "b": 0.9, "c": 0.5})
    ours = pd.Series({"b": 0.87654, "a": 0.111111, "new": 0.4})
    table = beside(papers, ours, digits=2)
    assert list(table.columns) == ["published", "ours"]
    assert list(table.index) == ["b", "a", "new"]
    assert table.loc["a"].tolist() == [0.12, 0.11]
    assert np.isnan(table.loc["new", "published"])


def test_beside_takes_whole_tables():
    papers = pd.DataFrame({"linear": [0.5], "lgbm": [0.75]}, index=["x"])
    table = beside(papers, papers / 2, digits=3)
    assert table.loc["x", ("published", "lgbm")] == 0.75
    assert table.loc["x", ("ours", "linear")] == 0.25


def test_tables_that_share_no_row_are_an_error():
    with pytest.raises(GengapError, match="same index"):
        beside(pd.Series({"mnist": 1.0}), pd.Series({"MNIST": 1.0}), digits=2)
