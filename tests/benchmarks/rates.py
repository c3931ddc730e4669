"""How long the originals take, by the rates of a part: writes data/tables/rates.csv.

Run: python tests/benchmarks/rates.py [demogen] [pgdl] [zoo]; the other rows of the table are kept.
Seconds are of the processor, in one thread, so that other work on the machine counts little;
weights and images are random. What is computed at full size is the product of a row's columns:
hours = seconds x times / cores / 3600.

demogen: margins of 50,000 images in each of the 756 networks, by kind and width.
pgdl: all measures of Task 1's 96 networks, from the images that pass a small network with labels at
random, where searches are longest: forward, and back for derivatives.
zoo: features, fits and judgement of four data sets of 30,000 networks. A tree and an epoch are
timed at the published number of networks, and a fit takes as many of them as it may at most.
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

import numpy as np
import pandas as pd
import torch
from full_size import zoo_index
from margins import sample
from pgdl_measures import CLASSES, full_size, processor

import gengap
from gengap import folders
from gengap.collections.cnnzoo import DATASETS, PARAMETERS
from gengap.collections.demogen_networks import in_fastest_format, nin, resnet32
from gengap.evaluation.judgement import MOST, judged
from gengap.measures import MEASURES
from gengap.measures.margins import margin_pass
from gengap.measures.weight_features import INPUT_SETS, input_features
from gengap.studies import zoo_predictors as predictors

sys.path.append(str(Path(__file__).parents[1]))  # what tests share
from counting import IMAGES as SAMPLE
from counting import counting

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
    networks = 2 * predictors.PUBLISHED_NETWORKS
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((networks, PARAMETERS), dtype=np.float32)
    index = settings(zoo_index(networks), rng)
    target, parts = index["test_accuracy"].to_numpy(np.float32), predictors.split(networks)
    spent = Counter()
    for name in INPUT_SETS:
        made = []
        spent["features"] += seconds(lambda: made.append(input_features(name, weights, index)))  # noqa: B023
        data = made[0].to_numpy(np.float32), target
        for predictor in predictors.PREDICTORS:
            most, of_one = of_a_fit(predictor, name, data, parts)
            spent[f"{predictor}, two fits of at most {most}"] += 2 * most * of_one
        print(name, dict(spent), flush=True)
    for of, whole in spent.items():
        yield f"zoo: {len(INPUT_SETS)} sets of inputs", f"{of}, of a data set", whole, len(DATASETS)
    one = zoo_index(MOST)
    values = pd.DataFrame({"m": rng.random(MOST)}, index=one["model_id"])
    spent = seconds(lambda: judged(values, one))
    yield "zoo: judgement", "a measure of a data set", spent, len(DATASETS) * len(MEASURES)


def of_a_fit(predictor: str, name: str, data: tuple, parts) -> tuple[int, float]:
    """How many trees or epochs a fit has at most, and the seconds of one."""
    config = predictors.tuned_config(predictor, "mnist", name)
    stop_on = {"leak_free": parts.validation}
    if predictor == "lgbm":
        grown = partial(predictors.grow_trees, *data, parts.train, stop_on, config, seed=0)
        few, more = (seconds(partial(grown, trees=trees)) for trees in (1, 41))
        return predictors.TREES, max(more - few, 0.0) / 40
    predictors.EPOCHS = 1
    return 300, seconds(lambda: predictors.fit(predictor, *data, parts.train, stop_on, config))


def settings(index: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """The zoo's hyper-parameters, at random, in place of those of a made-up index."""
    count = len(index)
    drawn = {
        f"hp_{n}": rng.random(count)
        for n in ("dropout", "init_std", "l2reg", "learning_rate", "train_fraction")
    }
    named = {
        "hp_activation": ["relu", "tanh"],
        "hp_b_init": ["zeros", "RandomNormal"],
        "hp_optimizer": ["adam", "sgd", "rmsprop"],
        "hp_w_init": ["he_normal", "orthogonal"],
    }
    drawn |= {name: rng.choice(values, count) for name, values in named.items()}
    return index.drop(columns=index.filter(regex="^hp_").columns).assign(**drawn)


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
            hours = round(spent * times / cores / 3600, 2)
            row = work, of, float(f"{spent:.3g}"), times, cores, hours, goal, processor(), today
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
