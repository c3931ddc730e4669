"""The competition's own files: predictions (`<task>.predict`) and `model_configs.json`."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from gengap import folders
from gengap.errors import GengapError


def read_predictions(file: str | Path) -> dict[str, float]:
    """A measure of one task's networks by `model_<id>`, as `<task>.predict` holds it (JSON).

    Raises: GengapError if it cannot be read, is no JSON object or has a model twice.
    """
    return _read_object(file, "predictions by model_<id>")


def read_model_configs(file: str | Path) -> dict[str, dict]:
    """Hyper-parameters and metrics of one task's networks by id: `model_configs.json`.

    Raises: GengapError if it cannot be read, is no JSON object or has a model twice.
    """
    return _read_object(file, "model configurations by id")


def write_predictions(file: str | Path, predictions: Mapping[str, float]) -> None:
    """Write a measure by `model_<id>` as the competition took it (JSON); NaN stays NaN."""
    text = json.dumps({model: float(value) for model, value in predictions.items()}, indent=1)
    folders.write_atomically(Path(file), lambda path: path.write_text(text + "\n"))


def predictions_of(table: pd.DataFrame, measure: str) -> dict[str, float]:
    """One measure of one task out of a measure table, by `model_<id>`.

    Raises: GengapError if the rows of the measure are none, or of more than one family.
    """
    rows = table[table["measure"] == measure]
    if rows["family"].nunique() != 1:
        found = ", ".join(rows["family"].unique()) or "no family"
        raise GengapError(
            f"predictions are of one task; the table has {measure!r} for {found}; select one family"
        )
    models = rows["model_id"].str.rpartition("/")[2]
    return dict(zip(models, rows["value"].astype(float), strict=True))


def _read_object(file, what):
    try:
        found = json.loads(Path(file).read_bytes(), object_pairs_hook=_without_repetition)
    except (OSError, ValueError) as error:
        raise GengapError(
            f"{file} cannot be read ({error}); a JSON file of {what} is expected"
        ) from error
    if not isinstance(found, dict):
        raise GengapError(f"{file} holds a {type(found).__name__}, not {what}")
    return found


def _without_repetition(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return found
