"""The kept scores of the participants' measures are those that their data give."""

import itertools

import numpy as np
import pandas as pd
import pytest

import gengap
from gengap import GengapError
from gengap.collections.participants import GRIDS, models_of, write_participants
from gengap.evaluation.baselines import BASELINE
from gengap.evaluation.scores import cmi
from gengap.evaluation.tasks import official_task
from gengap.studies import pgdl as record
from gengap.studies.published import reported

KEPT = {
    record.participants_scores: ["family", "measure", "score"],
    record.participants_added_value: ["family", "measure"],
}


@pytest.fixture
def nothing_at_hand(tmp_path, monkeypatch):
    """Neither a reference folder nor a download; returns the folder of the cache."""
    monkeypatch.setenv("GENGAP_REFERENCE", str(tmp_path / "reference"))
    monkeypatch.setenv("GENGAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def downloaded(nothing_at_hand):
    """The folder of a download: the squared gap as the only measure."""
    folder = nothing_at_hand / "pgdl_participants"
    for task in GRIDS:
        gaps = {f"model_{number}": (7 * number % 101) / 101 for number in models_of(task)}
        write_participants(folder, task, {"square": {m: g * g for m, g in gaps.items()}}, gaps)
    return folder


@pytest.mark.parametrize("table", KEPT)
def test_recomputed_tables_are_the_kept_ones(reference, nothing_at_hand, table):
    found = table(reference / "pgdl_participants")
    pd.testing.assert_frame_equal(found, table(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("table", KEPT)
def test_kept_tables_have_each_measure_once_and_in_order(nothing_at_hand, table):
    kept, by = table(), KEPT[table]
    assert not kept.duplicated(by).any()
    pd.testing.assert_frame_equal(kept, kept.sort_values(by, ignore_index=True))
    official = set(reported("pgdl_participants_scores")["measure"])
    assert set(kept["measure"]) - {BASELINE} == official
    assert set(kept["family"]) == set(GRIDS)
    if "score" in by:
        assert set(kept["score"]) == set(record.OFFICIAL)
        assert len(kept) == 2 * (len(official) + 1) * len(record.OFFICIAL)
    else:
        assert len(kept) == 2 * len(official)


def test_kept_scores_are_the_official_ones_to_twelve_digits(nothing_at_hand):
    kept = record.participants_scores()
    ours = kept[kept["score"] == "cmi"].set_index(["measure", "family"])["value"]
    official = reported("pgdl_participants_scores").set_index(["measure", "task"])
    for row, score in official["published_cmi"].items():
        assert round(ours[row], 12) == score, row


def test_data_at_hand_are_found_only_if_whole(nothing_at_hand, downloaded):
    assert record.participants_folder() == downloaded
    assert set(record.participants_added_value()["measure"]) == {"square"}
    (downloaded / "task2_v1_models.csv").unlink()
    assert record.participants_folder() is None
    assert "VPM_1" in set(record.participants_added_value()["measure"])


def test_what_is_kept_is_read_again(downloaded, data_folder):
    record.keep_participants(downloaded)
    (downloaded / "task1_v4_models.csv").unlink()
    for table, measures in zip(KEPT, ({"square", BASELINE}, {"square"})):
        assert set(table()["measure"]) == measures


@pytest.mark.parametrize("table", KEPT)
def test_neither_data_nor_table_is_one_sentence(nothing_at_hand, data_folder, table):
    with pytest.raises(GengapError, match="gengap fetch pgdl-participants"):
        table()


def grid_of(task: str, gap: np.ndarray) -> pd.DataFrame:
    """Index rows of a full grid of 24 networks with these gaps."""
    levels = np.array(list(itertools.product(range(3), range(2), range(2), range(2))))
    settings = {f"hp_{at}": column for at, column in enumerate(levels.T)}
    names = [f"{task}/model_{at}" for at in range(len(levels))]
    index = pd.DataFrame({"model_id": names, "family": task, "train_loss": 0.01, **settings})
    return index.assign(train_accuracy=1.0, test_accuracy=1 - gap)


def test_the_competition_ranks_measures_by_their_mean_over_the_tasks_of_a_phase():
    generator = np.random.default_rng(0)
    tasks = ("task1_v4", "task2_mine", "task4", "task5", "task6")  # phase two lacks three tasks
    parts = [grid_of(task, generator.uniform(size=24)) for task in tasks]
    index = pd.concat(parts, ignore_index=True)
    gap = index["train_accuracy"] - index["test_accuracy"]
    values = pd.DataFrame({"random": generator.normal(size=len(index)), "gap": gap})
    values["lacking"] = gap.where(index["family"] != "task5")
    table = record.competition(values.set_index(index["model_id"]), index, samples=50)
    assert list(table["phase"].unique()) == ["public", "phase one"]
    table = table.set_index(["phase", "measure"])
    assert "lacking" in table.loc["public"].index and "lacking" not in table.loc["phase one"].index
    single = {name: official_task(rows) for name, rows in index.groupby("family")}
    for phase, members in (("public", tasks[:2]), ("phase one", tasks[2:4])):
        for measure in ("random", "gap"):
            scores = [
                cmi(values[measure][(index["family"] == t).to_numpy()].to_numpy(), single[t])
                for t in members
            ]
            assert table.loc[(phase, measure), "score"] == pytest.approx(np.mean(scores))
    assert table.loc[("phase one", "gap"), ["rank", "low", "high"]].tolist() == [1, 1, 1]
    assert table.loc[("phase one", "random"), "rank"] == 2


def standing_of(ranks):
    """Of measures by phase, ranks with intervals and scores that follow from them."""
    rows = [(*key, *rank, 1 / rank[0]) for key, rank in ranks.items()]
    columns = ["phase", "measure", "rank", "low", "high", "score"]
    table = pd.DataFrame(rows, columns=columns)
    return record.beside_published(table, record.published_phases(reported("pgdl_scores")))


def test_published_means_are_of_measures_with_all_tasks_of_a_phase():
    published = record.published_phases(reported("pgdl_scores"))
    assert published["phase two", "davies_bouldin_mixup"] == pytest.approx(22.92)
    assert published["public", "wcv"] == pytest.approx((27.74 + 37.44) / 2)
    assert ("phase one", "vc_dimension") not in published  # of Tasks 1 and 2 alone


@pytest.mark.parametrize(
    ("interval", "verdicts"),
    [
        ((1, 1), ["fails", "holds", "fails"]),
        ((2, 9), ["holds", "fails", "holds"]),
        ((1, 9), ["depends", "depends", "depends"]),
    ],
)
def test_a_claim_holds_where_the_whole_interval_of_the_rank_agrees(interval, verdicts):
    kit = ["distance_from_initialization", "jacobian_norm", "sharpness"]
    ranks = {("phase one", name): (number + 1, 9, 9) for number, name in enumerate(kit)}
    ranks["phase one", kit[0]] = ranks["phase two", record.WINNER] = (1, *interval)
    ranks["public", kit[0]] = (1, 1, 1)
    published = record.published_phases(reported("pgdl_scores"))
    found = record.claims(standing_of(ranks), ["wcv", "vr"], published)
    assert found["verdict"].tolist() == verdicts
    assert found["published"].iloc[0] == "wcv: 32.6, then 0.4"
    assert found["rank here"].iloc[0] == f"1 ({interval[0]} to {interval[1]})"


def test_the_costs_of_every_measure_are_kept_for_two_replica_tasks():
    costs = record.measure_costs()
    assert set(costs["family"]) == {"task1_fashion_mnist", "task4_fashion_mnist"}
    for _, rows in costs.groupby("family"):
        assert set(rows["measure"]) == {*gengap.MEASURES, "loading"}
    assert (costs["seconds"] < 300).all(), "the competition's limit"
