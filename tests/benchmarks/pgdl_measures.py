"""What every measure costs: seconds and peak memory, each in a process of its own.

Run: python tests/benchmarks/pgdl_measures.py writes data/tables/pgdl_costs.csv, for the largest
networks of two replica tasks; with --measures vpm wcv only the rows of these are replaced. For a
network of the size of the competition's Task 1, random, on random images:
python tests/benchmarks/pgdl_measures.py --full-size --images 1000 --measures vpm

A measure is first called on the smallest network of the first task, which pays for what a process
imports and sets up once, then timed on the network in question. Nothing is subtracted from the
peak, that of the whole process: `loading` is a process that loads networks and sample, no more.
"""

import argparse
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import torch

import gengap
from gengap import folders
from gengap.formats.keras import network_from_config
from gengap.measures import MEASURES

LOADING = "loading"
TASKS = ("task1_fashion_mnist", "task4_fashion_mnist")  # VGG-like, fully convolutional
CLASSES = 10


def by_size(task: str) -> list[str]:
    """The networks of a replica task, as ids, by their number of parameters."""
    collection = gengap.open_collection("pgdl")
    ids = collection.index().query("family == @task")["model_id"]
    return sorted(ids, key=lambda model_id: parameters(collection.load(model_id)))


def parameters(model: gengap.Model) -> int:
    return sum(weight.numel() for weight in model.network.parameters())


def full_size(blocks: int, images: int, width: int = 512) -> gengap.Model:
    """A random VGG as in Task 1, with other weights as its start, on random images."""
    convolution = {"layer_name": "Conv2D", "filters": width, "kernel_size": 3}
    convolution |= {"padding": "same", "activation": "relu"}
    block = [convolution, convolution, {"layer_name": "MaxPooling2D", "pool_size": 2}]
    dense = [{"layer_name": "Dense", "units": 128, "activation": "relu"}]
    layers = [*blocks * block, {"layer_name": "Flatten"}, *dense]
    layers.append({"layer_name": "Dense", "units": CLASSES})
    config = {"model_config": layers, "input_shape": [32, 32, 3]}
    torch.manual_seed(0)
    network, start = network_from_config(config), network_from_config(config)
    sample = torch.rand(images, 3, 32, 32), torch.arange(images) % CLASSES
    record = pd.Series({"model_id": f"{blocks} blocks of width {width}, {images} images"})
    return gengap.Model(network, record, start.state_dict(), lambda: sample)


def measured(name: str, small: str, large: str, options: argparse.Namespace) -> dict:
    """One row of the table, of the network `large`; the process ends at the time limit."""
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    load = gengap.open_collection("pgdl").load
    first, model = load(small), load(large) if large else full_size(options.blocks, options.images)
    first.sample, model.sample  # noqa: B018  (read here, so that no measure pays for it)
    note = ""
    if name != LOADING:
        with suppress(gengap.NotAvailable):
            MEASURES[name](first)
        started = time.perf_counter()
        signal.alarm(options.limit)
        try:
            MEASURES[name](model)
        except gengap.NotAvailable as missing:
            note = str(missing)
    return {
        "family": large.partition("/")[0] or "full size",
        "model_id": model.record["model_id"],
        "measure": name,
        "seconds": round(time.perf_counter() - started, 4),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "threads": options.threads,
        "processor": processor(),
        "note": note,
    }


def processor() -> str:
    """The processor's model where Linux tells it, otherwise what it is compatible with."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def in_its_own_process(*what: str, options: argparse.Namespace) -> dict | None:
    """`measured` in a fresh process, which reports as JSON; None at the time limit."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", *what]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    child = subprocess.run(command, check=False, env=environment, stdout=subprocess.PIPE)
    if child.returncode == -signal.SIGALRM:
        return None
    child.check_returncode()
    return json.loads(child.stdout.splitlines()[-1])


def told(row: dict | None, limit: int) -> str:
    if row is None:
        return f"over {limit} s"
    return f"{row['seconds']:9.3f} s {row['peak_mib']:6} MiB {row['note']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full-size", action="store_true", help="a network as in Task 1")
    parser.add_argument("--blocks", type=int, default=1, help="of convolutions; Task 1: 1 or 3")
    parser.add_argument("--images", type=int, default=200, help="Task 1: 50000")
    parser.add_argument("--measures", nargs="*", default=[LOADING, *sorted(MEASURES)])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, default=300, help="seconds, as in the competition")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(*options.child, options)))
        return
    rows, small = [], by_size(TASKS[0])[0]
    for task in [None] if options.full_size else TASKS:
        large = by_size(task)[-1] if task else ""
        for name in options.measures:
            row = in_its_own_process(name, small, large, options=options)
            print(f"{task or 'full size':18s} {name:38s} {told(row, options.limit)}", flush=True)
            rows.append(row)
    if not options.full_size:
        file = folders.data() / "tables" / "pgdl_costs.csv"
        table = pd.concat([kept(file, options.measures), pd.DataFrame(filter(None, rows))])
        order = [*TASKS, LOADING, *sorted(MEASURES)]
        table = table.sort_values(["family", "measure"], key=lambda names: names.map(order.index))
        folders.write_atomically(file, lambda path: table.to_csv(path, index=False))


def kept(file: Path, replaced: list[str]) -> pd.DataFrame:
    """The rows of other measures that there still are."""
    table = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["measure"])
    others = {LOADING, *MEASURES} - set(replaced)
    return table[table["measure"].isin(others)]


if __name__ == "__main__":
    main()
