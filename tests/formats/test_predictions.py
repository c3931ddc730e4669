import json

import pytest

from gengap import GengapError
from gengap.formats.predictions import read_model_configs, read_predictions


def test_predictions_are_read_with_nan_and_infinity(tmp_path):
    given = {"model_20": 0.1, "model_21": -3, "model_22": float("inf"), "model_23": float("nan")}
    (tmp_path / "task.predict").write_text(json.dumps(given))
    assert str(read_predictions(tmp_path / "task.predict")) == str(given)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"model_1": 1, "model_2": 2, "model_1": 3}', "'model_1' stands there twice"),
        ('{"model_1": 1,', "cannot be read.*a JSON file of .* is expected"),
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
    with pytest.raises(GengapError, match="none.predict is missing"):
        read_predictions(tmp_path / "none.predict")


def test_real_configurations_are_read(reference):
    file = reference / "pgdl_participants" / "task2_v1_model_configs.json"
    assert read_model_configs(file) == json.loads(file.read_text())
