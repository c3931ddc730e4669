"""Real measures without networks: as a table and an index, scored as officially published."""

import json

import pandas as pd
import pytest

from gengap import GengapError, folders
from gengap.collections.participants import TASKS, read_participants, task_files
from gengap.evaluation.baselines import BASELINE, added_value_table
from gengap.evaluation.judgement import judged, rank_correlations
from gengap.evaluation.scores import cmi
from gengap.evaluation.tasks import official_task, read_task
from gengap.studies.pgdl import by_model, official_scores
from gengap.studies.published import reported


@pytest.fixture(scope="module")
def real():
    return read_participants()


@pytest.fixture
def written(tmp_path):
    """Copies of the files in which the gap follows from the id, and its square is the measure."""
    for task in TASKS:
        source = task_files(folders.data() / "published" / "pgdl_participants", task)
        measures, configs = task_files(tmp_path, task)
        specs = json.loads(source[1].read_text())
        gaps = {number: (7 * int(number) % 101) / 101 for number in specs}
        for number, spec in specs.items():
            spec["metrics"] = {"gen_gap": gaps[number]}
        configs.write_text(json.dumps(specs))
        rows = {"model_id": gaps.keys(), "measure.square": [gap**2 for gap in gaps.values()]}
        pd.DataFrame(rows).to_csv(measures, index=False)
    return tmp_path


# The real ones


def test_the_table_scores_as_officially_published_to_twelve_digits(real):
    table, index, _ = real
    scores = official_scores(by_model(table), index, samples=2, permutations=2)
    scores = scores[(scores["measure"] != BASELINE) & scores["score"].isin(["cmi", "pearson"])]
    values = scores.pivot(index=["measure", "family"], columns="score", values="value")
    official = reported("pgdl_participants_scores").rename(columns={"task": "family"})
    found = official.join(values, on=["measure", "family"])
    assert len(values) == len(official) == 22
    assert (found["cmi"].round(12) == found["published_cmi"]).all()
    known = found.dropna(subset="published_abs_pearson")
    assert len(known) == 6
    assert (known["pearson"].abs().round(12) == known["published_abs_pearson"]).all()


def test_the_files_are_those_of_the_reference(reference):
    for task in TASKS:
        own = task_files(folders.data() / "published" / "pgdl_participants", task)
        theirs = task_files(reference / "pgdl_participants", task)
        assert [file.read_bytes() for file in own] == [file.read_bytes() for file in theirs]


def test_the_index_knows_every_gap_and_some_accuracies(real):
    _, index, specs = real
    assert index.groupby("family", sort=False).size().to_dict() == {"task1_v4": 96, "task2_v1": 54}
    known = index.dropna(subset=["train_accuracy", "test_accuracy"])
    assert len(known) == 48
    difference = known["train_accuracy"] - known["test_accuracy"]
    assert difference.to_numpy() == pytest.approx(known["gap"].to_numpy(), abs=1e-15)
    for task, rows in index.groupby("family"):
        assert official_task(rows).gap == pytest.approx(read_task(specs[task]).gap, abs=1e-15)


# Files in that form


def test_what_is_written_is_read_again(written):
    table, index, specs = read_participants(written)
    assert list(table) == ["family", "model_id", "measure", "value"]
    assert len(table) == len(index) == 96 + 54
    joined = table.merge(index, on=["family", "model_id"], validate="one_to_one")
    assert (joined["value"] == joined["gap"] ** 2).all()
    assert list(index)[:8] == [
        *("model_id", "family", "epoch", "train_accuracy", "test_accuracy"),
        *("train_loss", "test_loss", "gap"),
    ]
    assert index["model_id"].iloc[0] == "task1_v4/model_20"
    for task, rows in index.groupby("family"):
        one, other = official_task(rows), read_task(specs[task])
        assert (one.gap == other.gap).all()
        assert cmi(one.gap, one) == pytest.approx(cmi(other.gap, other), abs=1e-12)
        assert set(one.possible) == set(other.possible)


def test_every_analysis_takes_gaps_without_accuracies(written):
    table, index, _ = read_participants(written)
    assert index["train_accuracy"].isna().all()
    values = by_model(table)
    scores = judged(values, index, scores=["kendall_tau"], samples=2, permutations=2)
    scores = scores[scores["measure"].isin(["square", BASELINE])]
    perfect = scores.loc[scores["measure"] == "square", "value"]
    assert perfect.to_numpy() == pytest.approx([1, 1])
    assert scores["value"].notna().all()
    assert added_value_table(values, index, samples=10)["gain"].notna().all()


def test_taus_with_the_gap_take_it_from_the_index(written):
    table, index, _ = read_participants(written)
    index = index.assign(test_accuracy=1.0)
    found = rank_correlations(table, index)
    assert found["gap"].to_numpy() == pytest.approx([1, 1])


def test_files_that_are_missing_damaged_or_of_other_models_are_one_sentence(written):
    measures, configs = (
        written / f"task2_v1_{kind}" for kind in ("models.csv", "model_configs.json")
    )
    content = measures.read_text()
    measures.write_text(content.rpartition("\n1011,")[0] + "\n")
    with pytest.raises(GengapError, match="task2_v1_models.csv and .* are of different models"):
        read_participants(written)
    measures.write_text("a,b\n1,2\n")
    with pytest.raises(GengapError, match="task2_v1_models.csv cannot be read"):
        read_participants(written)
    measures.unlink()
    with pytest.raises(GengapError, match="task2_v1_models.csv is missing"):
        read_participants(written)
    specs = json.loads(configs.read_text())
    del specs["994"]["metrics"]["gen_gap"]
    configs.write_text(json.dumps(specs))
    with pytest.raises(GengapError, match="task2_v1_model_configs.json cannot be read .*gen_gap"):
        read_participants(written)
