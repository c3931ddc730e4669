"""What the kill test runs in processes of its own: measures that take time and log their calls."""

import os
import time
from pathlib import Path

from tiny_collection import TinyCollection

import gengap
from gengap.errors import NotAvailable

LOG = "MEASURE_LOG"


def log(model, name: str) -> None:
    with open(os.environ[LOG], "a") as calls:
        calls.write(f"{model.record['model_id']} {name}\n")
    time.sleep(0.01)


@gengap.measure
def slow_seed(model) -> float:
    log(model, "slow_seed")
    return model.record["hp_seed"] + 0.1


@gengap.measure
def slow_loss(model) -> float:
    log(model, "slow_loss")
    return model.record["train_loss"]


@gengap.measure
def slow_left(model) -> float:
    log(model, "slow_left")
    if model.record["family"] == "right":
        raise NotAvailable("only the family left has this")
    return 1.0


MEASURES = ["slow_seed", "slow_loss", "slow_left"]


def run(root: Path, store: Path, calls: Path, query: str = "hp_seed >= 0") -> None:
    os.environ[LOG] = str(calls)
    gengap.measure_table(TinyCollection(root).select(query), MEASURES, store=store)
