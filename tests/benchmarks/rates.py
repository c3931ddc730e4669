"""How long the originals take, by the rates of a part: writes data/tables/rates.csv.

Run: python tests/benchmarks/rates.py [demogen] [pgdl] [zoo]; the other rows of the table are kept.
Seconds are of the processor, in one thread, so that other work on the machine counts little;
images are random, and weights but for the zoo's. What is computed at full size is the product of a
row's columns: hours = seconds x times / cores / 3600.

demogen: margins of 50,000 images in each of the 756 networks, by kind and width.
pgdl: all measures of Task 1's 96 networks, from the images that pass a small network with labels at
random, where searches are longest: forward, and back for derivatives.
zoo: features, fits and judgement of four data sets of 30,000 networks, made of the embedded ones at
all checkpoints, with the configurations of MNIST. An epoch and a tree are timed with as many
networks as published; how many it takes until a fit stops is counted with a fifth of them, which
has as many steps an epoch.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from full_size import zoo_index
from margins import sample
from pgdl_measures import CLASSES, full_size, processor

import gengap
from gengap import folders
from gengap.collections.cnnzoo import DATASETS, PARAMETERS, finite_rows
from gengap.collections.demogen_networks import in_fastest_format, nin, resnet32
from gengap.evaluation.judgement import MOST, judged
from gengap.measures import MEASURES
from gengap.measures.margins import margin_pass
from gengap.measures.weight_features import INPUT_SETS, input_features
from gengap.studies import zoo_predictors as predictors

sys.path.append(str(Path(__file__).parents[1]))  # what tests share
from counting import IMAGES as SAMPLE
from counting import counting

ITERATIONS = {"linear": 40, "lgbm": 40, "dnn": 5}  # timed
SOME = predictors.PUBLISHED_NETWORKS // 5
IMAGES = 50_000  # of CIFAR-10, on which DEMOGEN and Task 1 are trained
COLUMNS = ["work", "of", "seconds", "times", "cores", "hours", "goal in hours", "processor", "date"]
Row = tuple[str, str, float, float]  # work, of what, seconds of one, how many


def seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def of_demogen(images: int = 100) -> Iterator[Row]:
    kinds = {
        f"NiN {width}": (72, lambda w=width: nin(w, True, 0.0, CLASSES))
        for width in (192, 288, 384)
    }
    for width in (16, 32, 64):
        for norm in ("batch", "group"):
            kinds[f"ResNet {width}, {norm}"] = 90, lambda w=width, n=norm: resnet32(w, n, CLASSES)
    inputs, labels = sample(images, torch.device("cpu"))
    for kind, (networks, make) in kinds.items():
        network = in_fastest_format(make().eval())
        margin_pass(network, inputs[:50], labels[:50])
        spent = seconds(partial(margin_pass, network, inputs, labels))
        yield "DEMOGEN: margins", f"an image in {kind}", spent / images, networks * IMAGES


def of_pgdl(images: int = 20) -> Iterator[Row]:
    counts = Counter()
    counted = counting(counts)
    for measure in MEASURES.values():
        with suppress(gengap.NotAvailable):
            measure(counted)
    forward_images = max(counts["first"], counts["last"]) - SAMPLE + IMAGES
    for width, blocks in product((256, 512), (1, 3)):
        model = full_size(blocks, images, width)
        network, inputs = model.network, model.sample[0]
        with torch.no_grad():
            network(inputs[:5])
            forward = seconds(partial(network, inputs)) / images
        both = seconds(lambda: network(inputs).sum().backward()) / images  # noqa: B023
        spent = forward * forward_images + (both - forward) * counts["derivatives"]
        of = f"a network of width {width}, {blocks} blocks"
        yield f"PGDL, Task 1: all {len(MEASURES)} measures", of, spent, 24


def of_zoo() -> Iterator[Row]:
    few, many = like_the_zoo(SOME), like_the_zoo(predictors.PUBLISHED_NETWORKS)
    spent = Counter()
    for name in INPUT_SETS:
        made = []
        spent["features"] += seconds(lambda: made.append(features(name, many)))  # noqa: B023
        for predictor in predictors.PREDICTORS:
            at_most = iterations(predictor, name, features(name, few))
            spent[f"{predictor}, two fits"] += at_most * of_an_iteration(predictor, name, *made)
            print(name, predictor, at_most, dict(spent), flush=True)
    for of, whole in spent.items():
        yield f"zoo: {len(INPUT_SETS)} sets of inputs", f"{of}, of a data set", whole, len(DATASETS)
    yield "zoo: judgement", "a measure of a data set", of_a_measure(), len(DATASETS) * len(MEASURES)


def like_the_zoo(half: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Weights and index of 2 x `half` networks that are made of the replica's.

    Of all families and checkpoints, each several times, a weight times 1 +- 0.05 and an accuracy
    +- 0.002; those of the second half, for tests, are made of other networks than those of the
    first, so that a fit stops where it learns nothing more.
    """
    zoo, rng = gengap.open_collection("cnnzoo"), np.random.default_rng(0)
    index = zoo.index()
    weights = zoo.weights(index)
    index, weights = index[kept := finite_rows(weights)], weights[kept]
    network = index.groupby(["family", "run"]).ngroup().to_numpy()
    part = rng.permutation(network.max() + 1)[network] % 2
    rows = np.concatenate([rng.choice(np.flatnonzero(part == which), half) for which in (0, 1)])
    made = weights[rows] * (1 + 0.05 * rng.standard_normal((2 * half, PARAMETERS), np.float32))
    index = index.iloc[rows].reset_index(drop=True)
    accuracy = index["test_accuracy"] + 0.002 * rng.standard_normal(2 * half)
    return made, index.assign(test_accuracy=accuracy.clip(0, 1))


def features(name: str, networks: tuple[np.ndarray, pd.DataFrame]):
    """Inputs, targets and parts of a fit."""
    weights, index = networks
    inputs, size = input_features(name, weights, index).to_numpy(np.float32), len(index)
    parts = predictors.split_half(np.arange(size // 2), np.arange(size // 2, size))
    return inputs, index["test_accuracy"].to_numpy(np.float32), parts


def iterations(predictor: str, name: str, networks: tuple) -> int:
    """How many epochs or trees the two fits of a problem take until they have stopped."""
    *data, parts = networks
    config = predictors.tuned_config(predictor, "mnist", name)
    compared = {"leaky": parts.test, "leak_free": parts.validation}
    fits = [
        predictors.fit(predictor, *data, train, stop_on, config)
        for train, stop_on in (
            (parts.first_half, {"published": parts.test}),
            (parts.train, compared),
        )
    ]
    last = [max(found.iteration for found in fit.values()) for fit in fits]
    if predictor == "lgbm":  # which is read at its best number of trees
        last = [min(predictors.TREES, best + predictors.TREE_PATIENCE) for best in last]
    return sum(last)


def of_an_iteration(predictor: str, name: str, networks: tuple) -> float:
    """Seconds of one epoch or tree, at the published number of networks."""
    *data, parts = networks
    config = predictors.tuned_config(predictor, "mnist", name)
    train, stop_on = parts.first_half, {"published": parts.test}
    more = ITERATIONS[predictor]
    if predictor == "lgbm":
        grown = partial(predictors.grow_trees, *data, train, stop_on, config, seed=0)
        spent = [seconds(partial(grown, trees=trees)) for trees in (1, 1 + more)]
    else:
        trained = partial(predictors.fit, predictor, *data, train, stop_on, config)
        spent = [of_epochs(trained, epochs) for epochs in (1, 1 + more)]
    return max(spent[1] - spent[0], 0.0) / more  # what is done once is not counted


def of_epochs(trained: Callable[[], object], epochs: int) -> float:
    with patch.object(predictors, "EPOCHS", epochs):
        return seconds(trained)


def of_a_measure(measures: int = 10) -> float:
    """Seconds to judge one more measure, of those that go with the gap and so need all nulls."""
    index, rng = zoo_index(MOST), np.random.default_rng(0)
    gap = (index["train_accuracy"] - index["test_accuracy"]).to_numpy()
    values = {f"m{i}": gap + gap.std() * rng.standard_normal(MOST) for i in range(measures + 1)}
    values = pd.DataFrame(values, index=index["model_id"])
    first, all_of_them = (
        seconds(partial(judged, some, index)) for some in (values[["m0"]], values)
    )
    return (all_of_them - first) / measures


PARTS = {"demogen": (of_demogen, 16, 24), "pgdl": (of_pgdl, 16, 24), "zoo": (of_zoo, 2, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    chosen = parser.parse_args().parts or [*PARTS]
    torch.set_num_threads(1)
    file = folders.data() / "tables" / "rates.csv"
    rows = [] if not file.exists() else pd.read_csv(file).to_dict("records")
    for part in chosen:
        rates, cores, goal = PARTS[part]
        today = datetime.now(UTC).date()
        found = []
        for work, of, spent, times in rates():
            spent = float(f"{spent:.3g}")
            hours = float(f"{spent * times / cores / 3600:.3g}")
            row = work, of, spent, times, cores, hours, goal, processor(), today
            found.append(dict(zip(COLUMNS, row, strict=True)))
            print(*row, sep="  ", flush=True)
        whole = {
            "work": f"{found[0]['work'].partition(':')[0]}: in all",
            "cores": cores,
            "goal in hours": goal,
        }
        found.append(whole | {"hours": round(sum(row["hours"] for row in found), 1)})
        names = {row["work"].partition(":")[0] for row in found}
        rows = [row for row in rows if row["work"].partition(":")[0] not in names] + found
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"times": "Int64"})
    folders.write_atomically(file, lambda path: table.to_csv(path, index=False))


if __name__ == "__main__":
    main()
