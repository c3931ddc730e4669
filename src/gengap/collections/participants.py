"""Real measures of real PGDL networks, as team BrAIn submitted them: cadurosar/pgdl (MIT).

150 networks of the competition's public tasks without their weights: of each its hyper-parameters,
its generalization gap and eleven measures. They lie in `data/published/pgdl_participants`, as
`<task>_models.csv` and `<task>_model_configs.json` of both tasks.
"""

from pathlib import Path

import pandas as pd
from pandas import DataFrame

from gengap import folders
from gengap.collection import COLUMNS
from gengap.collections.pgdl import index_rows
from gengap.errors import GengapError
from gengap.formats.places import naming
from gengap.formats.predictions import read_model_configs

TASKS = ("task1_v4", "task2_v1")
MEASURE = "measure."  # begins the names of columns that hold measures


def task_files(folder: Path, task: str) -> tuple[Path, Path]:
    """The files of one task: measures by model, and model configurations."""
    return folder / f"{task}_models.csv", folder / f"{task}_model_configs.json"


def read_participants(folder: Path | None = None) -> tuple[DataFrame, DataFrame, dict[str, dict]]:
    """Both tasks as a measure table, an index and the tasks' model configurations.

    folder: of other files of that form. table: columns family, model_id, measure (as the team calls
    it), value. index: the columns of a collection's, accuracies and losses NaN where unknown, then
    gap (always known) and `hp_*`, in the form that `official_task` takes. specs: by task, as the
    competition's score takes them.

    Raises: GengapError for a missing or damaged file, or models that differ between the files.
    """
    folder = folder or folders.data() / "published" / "pgdl_participants"
    tables, rows, specs = [], [], {}
    for task in TASKS:
        measures, configs = task_files(folder, task)
        specs[task] = read_model_configs(configs)
        with naming(configs):
            gaps = {f"{task}/model_{n}": s["metrics"]["gen_gap"] for n, s in specs[task].items()}
            found = index_rows(task, specs[task])
        rows += [row | {"gap": gaps[row["model_id"]]} for row in found]
        with naming(measures):
            tables.append(_measures(measures, task))
        if set(tables[-1]["model_id"]) != set(gaps):
            raise GengapError(f"{measures} and {configs} are of different models; get both again")
    index = DataFrame(rows)
    varied = [name for name in index if name.startswith("hp_")]
    return pd.concat(tables, ignore_index=True), index[[*COLUMNS, "gap", *varied]], specs


def _measures(file: Path, task: str) -> DataFrame:
    models = pd.read_csv(file)
    if models["model_id"].duplicated().any():
        raise ValueError("it has a model twice")
    identity = {"family": task, "model_id": f"{task}/model_" + models["model_id"].astype(str)}
    measures = [name for name in models if name.startswith(MEASURE)]
    table = models[measures].astype(float).assign(**identity).melt([*identity], var_name="measure")
    return table.assign(measure=table["measure"].str.removeprefix(MEASURE))
