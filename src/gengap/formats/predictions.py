"""The competition's own files: predictions (`<task>.predict`) and `model_configs.json`."""

import json
from pathlib import Path

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
