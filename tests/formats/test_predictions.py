import json

import pandas as pd
import pytest

from gengap import GengapError
from gengap.formats.predictions import (
    predictions_of,
    read_model_configs,
    read_predictions,
    write_predictions,
)


def test_predictions_are_read_as_they_were_written_nan_and_infinity_too(tmp_path):
    given = {"model_20": 0.1, "model_21": -3, "model_22": float("inf"), "model_23": float("nan")}
    write_predictions(tmp_path / "deep" / "task.predict", given)
    found = read_predictions(tmp_path / "deep" / "task.predict")
    assert [*found] == [*given]
    assert str(found) == str({model: float(value) for model, value in given.items()})
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["task.predict"]


def test_a_measure_table_gives_predictions_by_official_id():
    table = pd.DataFrame(
        {
            "family": ["task4", "task4", "task5"],
            "model_id": ["task4/model_3", "task4/model_11", "task5/model_3"],
            "measure": ["norm", "norm", "margin"],
            "value": [1.5, float("nan"), 2.0],
        }
    )
    assert str(predictions_of(table, "norm")) == "{'model_3': 1.5, 'model_11': nan}"
    with pytest.raises(GengapError, match="'depth' for no family"):
        predictions_of(table, "depth")
    with pytest.raises(GengapError, match="'norm' for task4, task5; select one"):
        predictions_of(table.assign(measure="norm"), "norm")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"model_1": 1, "model_2": 2, "model_1": 3}', "'model_1' stands there twice"),
        ('{"model_1": 1,', "cannot be read .*a JSON file of .* is expected"),
        ("[1, 2]", "holds a list, not "),
    ],
)
@pytest.mark.parametrize("read", [read_predictions, read_model_configs])
def test_a_file_that_is_no_set_of_predictions_is_refused_by_name(tmp_path, text, sentence, read):
    file = tmp_path / "task1.predict"
    file.write_text(text)
    with pytest.raises(GengapError, match=f"task1.predict.*{sentence}"):
        read(file)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(GengapError, match="none.predict cannot be read"):
        read_predictions(tmp_path / "none.predict")


def test_real_configurations_are_read(reference):
    file = reference / "pgdl_participants" / "task2_v1_model_configs.json"
    assert read_model_configs(file) == json.loads(file.read_text())
