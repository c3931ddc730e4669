"""Real measures of real PGDL networks, as team BrAIn submitted them: cadurosar/pgdl (MIT).

150 networks of the competition's public tasks without their weights: of each its hyper-parameters,
its generalization gap and eleven measures. A folder holds `<task>_models.csv` and
`<task>_model_configs.json` of both tasks, as `gengap.collections.fetch.fetch_pgdl_participants` writes them.
"""

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from gengap import folders
from gengap.collection import COLUMNS
from gengap.collections.pgdl import index_rows
from gengap.errors import GengapError
from gengap.formats.places import naming
from gengap.formats.predictions import read_model_configs

# Task -> hyper-parameter -> its values by their part of a model's id; the id is the parts' sum.
GRIDS = {
    "task1_v4": {
        "dense_width": {0: 128},
        "convwidth": {0: 256, 1: 512},
        "dropout_p": {0: 0.5, 2: 0.0},
        "num_conv_blocks": {0: 1, 512: 3},
        "num_dense_layers": {0: 1, 128: 2},
        "weight_decay": {0: 0.001, 64: 0.0},
        "bs": {20: 32, 24: 512, 28: 8},
    },
    "task2_v1": {
        "depth": {612: 6, 994: 9, 239: 12},
        "dropout_p": {0: 0.25, 2: 0.5, 4: 0.0},
        "weight_decay": {0: 0.001, 1: 0.0},
        "bs": {0: 1024, 6: 32, 12: 512},
    },
}
MEASURE = "measure."  # begins the names of columns that hold measures


def task_files(folder: Path, task: str) -> tuple[Path, Path]:
    """The files of one task: measures by model, and model configurations."""
    return folder / f"{task}_models.csv", folder / f"{task}_model_configs.json"


def read_participants(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, dict]]:
    """What the folder holds as a measure table, an index and the tasks' model configurations.

    table: columns family, model_id, measure (as the team calls it), value. index: the columns of a
    collection's, accuracies and losses NaN where unknown, then gap (always known) and `hp_*`, in
    the form that `official_task` takes. specs: by task, as the competition's score takes them.

    Raises: GengapError for a missing or damaged file, or models that differ between the files.
    """
    tables, rows, specs = [], [], {}
    for task in GRIDS:
        measures, configs = task_files(Path(folder), task)
        specs[task] = read_model_configs(configs)
        with naming(configs):
            gaps = {f"{task}/model_{n}": s["metrics"]["gen_gap"] for n, s in specs[task].items()}
            found = index_rows(task, specs[task])
        rows += [row | {"gap": gaps[row["model_id"]]} for row in found]
        with naming(measures):
            tables.append(_measures(measures, task))
        if set(tables[-1]["model_id"]) != set(gaps):
            raise GengapError(f"{measures} and {configs} are of different models; get both again")
    index = pd.DataFrame(rows)
    varied = [name for name in index if name.startswith("hp_")]
    return pd.concat(tables, ignore_index=True), index[[*COLUMNS, "gap", *varied]], specs


def _measures(file: Path, task: str) -> pd.DataFrame:
    models = pd.read_csv(file)
    identity = {"family": task, "model_id": f"{task}/model_" + models["model_id"].astype(str)}
    measures = [name for name in models if name.startswith(MEASURE)]
    table = models[measures].assign(**identity).melt([*identity], var_name="measure")
    return table.assign(measure=table["measure"].str.removeprefix(MEASURE))


def read_gaps(file: Path, predictions: Mapping[str, float]) -> dict[str, float]:
    """The gap of each model from a file of the team's scoring program, `plot_<task>.npz.npy`.

    It holds pairs of a measure and the gap without ids, (1, 2N) float64 one after the other; they
    are told apart by the measure, whose `predictions` are given by `model_<id>`.

    Raises: GengapError if the file is damaged or not of these predictions.
    """
    with naming(file):
        pairs = np.load(file, allow_pickle=False).reshape(-1, 2)
    gaps = dict(pairs.tolist())
    if len(gaps) != len(pairs) or set(gaps) != set(predictions.values()):
        raise GengapError(f"{file} does not hold the values that were predicted; get both again")
    return {model: gaps[value] for model, value in predictions.items()}


def write_participants(
    folder: Path, task: str, measures: Mapping[str, Mapping[str, float]], gaps: Mapping[str, float]
) -> None:
    """Write the files of one task: measures by their name, and gaps, each by `model_<id>`.

    Raises: GengapError if one of them is not of exactly the task's models.
    """
    models = models_of(task)
    for name, values in (measures | {"gap": gaps}).items():
        if set(values) != {f"model_{number}" for number in models}:
            raise GengapError(f"{name} of {task} is not of the {len(models)} models of its grid")
    table = pd.DataFrame.from_dict(models, orient="index").rename_axis("model_id")
    ids = [f"model_{number}" for number in models]
    table["gen_gap"] = [gaps[model] for model in ids]
    for name, values in measures.items():
        table[MEASURE + name] = [values[model] for model in ids]
    specs = {str(n): _spec(task, models[n], gaps[f"model_{n}"]) for n in models}
    to_measures, to_configs = task_files(folder, task)
    folders.write_atomically(to_measures, table.to_csv)
    text = json.dumps(specs, indent=1) + "\n"
    folders.write_atomically(to_configs, lambda path: path.write_text(text))


def models_of(task: str) -> dict[int, dict[str, float]]:
    """The hyper-parameters of each model of a task by its id, ascending."""
    grid = GRIDS[task]
    models = {
        sum(part for part, _ in point): dict(zip(grid, [value for _, value in point]))
        for point in product(*(choices.items() for choices in grid.values()))
    }
    return dict(sorted(models.items()))


def _spec(task: str, values: Mapping[str, float], gap: float) -> dict:
    hparams = {
        name: {"possible_values": [*choices.values()], "current_value": values[name]}
        for name, choices in GRIDS[task].items()
    }
    return {"hparams": hparams, "metrics": {"gen_gap": gap}}
