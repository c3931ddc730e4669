"""Reported numbers are read whole and shown beside ours at the paper's digits."""

import numpy as np
import pandas as pd
import pytest

from gengap.errors import GengapError
from gengap.studies.published import beside, reported

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
    assert beside(pd.Series({"mnist": 1.0}), pd.Series(dtype=float), digits=2).empty


# The public record of PGDL

PUBLIC, PRIVATE = ["task1_v4", "task2_v1"], ["task4", "task5"]
FINAL = ["task6", "task7", "task8", "task9"]
DEVELOPMENT = {  # averages of the public and of the private tasks, as the team's README prints them
    "distance_from_initialization": (4.92, 2.02),
    "jacobian_norm": (2.04, 4.19),
    "sharpness": (0.00, 0.82),
    "vr": (14.45, 0.72),
    "wcv": (32.60, 0.37),
    "vpm_80": (11.17, 13.04),
}


def mean_scores(tasks):
    """The mean of each measure that has a score on all of these tasks, by our name of it."""
    scores = reported("pgdl_scores").dropna(subset="name")
    table = scores[scores["task"].isin(tasks)].pivot(index="name", columns="task", values="score")
    return table.dropna().mean(axis=1)


def test_the_final_leaderboard_is_the_mean_of_its_tasks():
    means = mean_scores(FINAL)
    final = {"davies_bouldin_mixup": 22.92, "mixup_margin": 13.93, "vpm": 9.99}
    for name, average in final.items():
        assert means[name] == pytest.approx(average, abs=0.0051), name
    assert means.sort_values(ascending=False).index[:2].tolist() == [*final][:2]


@pytest.mark.parametrize("name", DEVELOPMENT)
def test_the_teams_averages_are_the_means_of_their_tasks(name):
    for tasks, average in zip((PUBLIC, PRIVATE), DEVELOPMENT[name], strict=True):
        # The source rounds averages of unrounded scores, and cuts 32.59 to three digits.
        assert mean_scores(tasks)[name] == pytest.approx(average, abs=0.0101), tasks


def test_scores_are_tidy_and_what_was_copied_by_mistake_is_left_out():
    scores, times = reported("pgdl_scores"), reported("pgdl_times")
    for table in (scores, times):
        assert not table.duplicated(["measure", "task"]).any()
        assert table.drop(columns=["team", "name"]).notna().all(axis=None)
        mistaken = (table["name"] == "vc_dimension") & table["task"].isin(PRIVATE)
        assert not mistaken.any()
    assert set(scores["task"]) == {*PUBLIC, *PRIVATE, *FINAL}
    assert scores["score"].between(0, 100).all()
    assert scores.loc[scores["measure"] == "Hutchinson", "score"].tolist() == [
        0.78,
        3.92,
        9.51,
        7.27,
    ]


def test_every_name_in_the_record_is_a_measure_of_ours():
    from gengap.measures import MEASURES

    names = reported("pgdl_scores").dropna(subset="name")
    assert set(names["name"]) <= set(MEASURES)
    assert (names.groupby("name")["measure"].nunique() == 1).all()


def test_the_participants_official_scores_are_the_printed_ones_to_two_digits():
    official = reported("pgdl_participants_scores").set_index(["measure", "task"])
    record = reported("pgdl_scores")
    record["name"] = record["name"].fillna(record["measure"])
    printed = record.set_index(["name", "task"])["score"]
    ours = {
        "VPM_1": "vpm",
        "VR": "vr",
        "sharpness": "sharpness",
        "train_cross_entropy": "Training loss",
    }
    assert len(official) == 22
    for team, name in ours.items():
        for task in PUBLIC:
            found = 100 * official.loc[(team, task), "published_cmi"]
            # Two digits, rounded or cut: 9.316 is printed as 9.31.
            assert found == pytest.approx(printed[name, task], abs=0.01), (name, task)


def test_participants_official_scores_are_the_transcribed_ones(reference):
    pd.testing.assert_frame_equal(
        reported("pgdl_participants_scores"),
        pd.read_csv(reference / "pgdl_participants" / "published_scores.csv"),
    )
