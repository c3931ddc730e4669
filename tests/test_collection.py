import numpy as np
import pandas as pd
import pytest
import torch

import gengap
from gengap.collection import COLUMNS, Collection


def test_an_unknown_collection_is_answered_with_the_known_ones():
    known = "cnnzoo, demogen, folder, genprob, pgdl"
    with pytest.raises(
        gengap.GengapError,
        match=f"no collection 'cnnzo'; did you mean 'cnnzoo'. there are: {known}",
    ):
        gengap.open_collection("cnnzo")


def test_a_root_that_is_no_folder_is_one_sentence(tiny, tmp_path):
    (tmp_path / "file").touch()
    for root in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(gengap.GengapError, match="is no folder that can be read"):
            gengap.open_collection("tiny", root)


def test_a_root_may_be_a_zip_file_only_where_the_collection_reads_one(tiny, tmp_path, monkeypatch):
    file = tmp_path / "some.zip"
    file.touch()
    assert not tiny.is_root(file)
    monkeypatch.setattr(type(tiny), "root_may_be_zip", True)
    assert gengap.open_collection("tiny", file).index().equals(tiny.index())
    with pytest.raises(gengap.GengapError, match="is no folder that can be read"):
        gengap.open_collection("tiny", tmp_path / "nowhere.zip")


@pytest.mark.parametrize("device", ["tpu", "meta", "cuda:99", 77])
def test_a_device_that_cannot_compute_is_one_sentence(tiny, device):
    with pytest.raises(gengap.GengapError, match=f"device '{device}' cannot be used here"):
        gengap.open_collection("tiny", device=device)


def test_a_selection_holds_exactly_the_rows_of_its_query(tiny):
    chosen = tiny.select("family == 'left' and hp_seed > 1")
    assert list(chosen.index()["model_id"]) == ["left/2", "left/3"]
    assert list(chosen.select("hp_seed == 3").index()["model_id"]) == ["left/3"]
    assert chosen.whole is tiny and len(tiny.index()) == 8
    assert chosen.load("left/3").record["hp_seed"] == 3
    with pytest.raises(gengap.GengapError, match="no model 'left/0' among its 2"):
        chosen.load("left/0")


@pytest.mark.parametrize(
    "query",
    ["famly == 'left'", "family ==", "epoch", "epoch + 1", "epoch = 3", "@tiny == 1", "", "1 == 1"],
)
def test_a_query_that_selects_nothing_meaningful_is_one_sentence(tiny, query):
    with pytest.raises(gengap.GengapError, match="query .* (is not understood|does not say)"):
        tiny.select(query)


def test_a_changed_copy_of_the_index_changes_nothing(tiny):
    changed = tiny.index()
    changed.loc[0, "train_accuracy"] = 7.0
    assert tiny.index().loc[0, "train_accuracy"] <= 1


def with_index(tmp_path, **changes) -> Collection:
    index = pd.DataFrame({column: [0.5, 0.25] for column in COLUMNS})
    index = index.assign(**{"model_id": ["a", "b"], "family": "one", "epoch": 1, **changes})

    class Given(Collection):
        name = "given"

        def read_index(self):
            return index

    return Given(tmp_path)


def test_an_index_with_a_repeated_id_or_a_percentage_or_too_few_columns_is_refused(tmp_path):
    with pytest.raises(gengap.GengapError, match="names 'a' twice"):
        with_index(tmp_path, model_id=["a", "a"]).index()
    with pytest.raises(gengap.GengapError, match=r"test_accuracy 93 for 'b'; a fraction"):
        with_index(tmp_path, test_accuracy=[0.9, 93.0]).index()
    lacking = with_index(tmp_path)
    lacking.read_index = lambda: pd.DataFrame({"model_id": ["a"]})
    with pytest.raises(gengap.GengapError, match="lacks the columns family, epoch"):
        lacking.index()


def test_an_accuracy_that_was_not_recorded_is_no_error(tmp_path):
    index = with_index(tmp_path, test_accuracy=[np.nan, 0.5]).index()
    assert index["test_accuracy"].isna().sum() == 1


def test_networks_and_samples_are_read_once_a_family(tiny, monkeypatch):
    calls = []
    read = tiny.read_sample
    monkeypatch.setattr(tiny, "read_sample", lambda record: calls.append(record) or read(record))
    models = [tiny.load(model_id) for model_id in tiny.index()["model_id"]]
    for model in models:
        for _ in range(2):
            try:
                assert model.sample[0].device == torch.device("cpu")
            except gengap.NotAvailable as missing:
                assert str(missing) == "the family right has no images here"
    assert [record["family"] for record in calls] == ["left", "right"]


def test_a_sample_that_was_changed_is_read_again_where_it_is_forgotten(tiny):
    changed = tiny.load("left/0").sample[0].zero_()
    assert tiny.load("left/1").sample[0] is changed
    tiny.forget_samples()
    assert tiny.load("left/1").sample[0].abs().sum() > 0


def test_a_table_is_the_embedded_networks_own_or_belongs_to_no_path(tiny, tmp_path):
    others = [tmp_path / "elsewhere", tmp_path / "a copy"]
    for other in others:
        other.mkdir()
    assert tiny.table_name == "tiny"
    names = {gengap.open_collection("tiny", other).table_name for other in others}
    assert names == {"tiny-other"}
    assert gengap.open_collection("tiny", tiny.root / ".." / "tiny").table_name == "tiny"


def test_families_tell_what_is_missing(tiny):
    (tiny.root / "left").mkdir()
    families = tiny.families().set_index("family")
    assert dict(families["models"]) == {"left": 4, "right": 4, "absent": 0}
    assert families.loc["left", "missing"] == []
    assert families.loc["absent", "missing"] == [tiny.root / "absent"]
