"""The participants' measures scored as officially, and the competition run again."""

import itertools

import numpy as np
import pandas as pd
import pytest

import gengap
from gengap.collections.participants import TASKS
from gengap.evaluation.baselines import BASELINE
from gengap.evaluation.scores import cmi
from gengap.evaluation.tasks import official_task
from gengap.studies import pgdl as record
from gengap.studies.published import reported


def test_the_participants_scores_have_each_measure_once_and_are_the_official_ones():
    found = record.participants_scores()
    assert not found.duplicated(["family", "measure", "score"]).any()
    official = reported("pgdl_participants_scores").set_index(["measure", "task"])
    measures = {*official.index.get_level_values("measure"), BASELINE}
    assert set(found["measure"]) == measures and set(found["family"]) == set(TASKS)
    assert len(found) == 2 * len(measures) * len(record.OFFICIAL)
    ours = found[found["score"] == "cmi"].set_index(["measure", "family"])["value"]
    for row, score in official["published_cmi"].items():
        assert round(ours[row], 12) == score, row


def test_what_the_participants_measures_add_is_told_for_each():
    found = record.participants_added_value()
    official = reported("pgdl_participants_scores")
    assert len(found) == 2 * official["measure"].nunique()
    assert set(found["measure"]) == set(official["measure"]) and found["gain"].notna().all()


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


def test_a_claim_about_tasks_or_measures_that_are_not_at_hand_is_not_tested():
    published = record.published_phases(reported("pgdl_scores"))
    deciding = standing_of({("phase two", record.WINNER): (1, 1, 1)})
    found = record.claims(deciding, ["wcv", "vr"], published)
    assert found["verdict"].tolist() == ["not tested", "holds", "not tested"]
    found = record.claims(deciding.iloc[:0], ["wcv", "vr"], published)
    assert set(found["verdict"]) == {"not tested"} and set(found["rank here"]) == {"none"}


def test_the_costs_of_every_measure_are_kept_for_two_replica_tasks():
    costs = record.measure_costs()
    assert set(costs["family"]) == {"task1_fashion_mnist", "task4_fashion_mnist"}
    for _, rows in costs.groupby("family"):
        assert set(rows["measure"]) == {*gengap.MEASURES, "loading"}
    assert (costs["seconds"] < 300).all(), "the competition's limit"
