"""The competition's own files: predictions (`<task>.predict`) and `model_configs.json`."""

from pathlib import Path

from gengap.errors import GengapError
from gengap.formats.places import read_json


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


def _read_object(file, what):
    found = read_json(Path(file), f"a JSON file of {what} is expected")
    if not isinstance(found, dict):
        raise GengapError(f"{file} holds a {type(found).__name__}, not {what}")
    return found
