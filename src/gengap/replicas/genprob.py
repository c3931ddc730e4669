"""Train networks of GenProb's family on a few images, in the published format, and keep all epochs.

The architecture, the learning rates, weight decays, momentum, the number of epochs and the steps of
the learning rate are published, and so is the ratio of the two widths; the networks here are
narrower, see fewer images, and in smaller batches. The factor by which the rate falls was not
released, nor how images were augmented: 0.5, and shifts and flips. So many networks of these few
channels do not fit their images, as the published ones do not.

What a run of a family leaves under its folder `out`, which families may share:

`<network>_FashionMNIST.zip`: of one network the checkpoints in the published format, after every
epoch for the first EVERY_EPOCH networks of a family, after the last for the others; and in
`<network>_FashionMNIST_spectra.parquet`, for every epoch, model_id and what `network_spectra` says
of each layer, in float32.
`<family>/training.json`: what all networks of the family share.
`fashion_mnist/`: the training images.

Of every epoch a copy of the network with rounded weights is what is recorded, measured and kept;
training goes on from the weights as they are.
"""

import copy
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import nn
from tqdm import tqdm

from gengap.collections import genprob
from gengap.errors import GengapError
from gengap.evaluation.resampling import bootstrap_interval
from gengap.formats.containers import write_container
from gengap.formats.images import load_images, write_idx_pair
from gengap.measures.spectra import network_spectra
from gengap.replicas import training
from gengap.replicas.pool import hash_seed, run_on
from gengap.replicas.training import (
    MOMENTUM,
    Images,
    check_settings,
    evaluate,
    round_weights,
    shifted_and_mirrored,
    shuffled_batches,
    train_epoch,
    write_json,
)
from gengap.tables.engine import cores

DATASET, FOLDER = "FashionMNIST", "fashion_mnist"  # as files are named, as images are
SETTINGS = "training.json"
CLASSES = 10
IMAGES = 1000  # the first training images
TESTED = 2000  # the first test images, at all epochs but these and the last, when it is all of them
TESTED_WHOLE = (0, 10, 20, 30)  # as the published figures
BATCH = 64
EPOCHS = 70
STEP, FACTOR = 10, 0.5  # of the learning rate: epochs until it falls, and to which part
SHIFT = 2  # pixels of 16, at most, as the customary 4 of 32
EVERY_EPOCH = 2  # networks of a family of which the weights of all epochs are kept
PLANES = (5, 6)  # channels of a cell whose digit in the width code is 0 or 1; published: 40, 48
WIDTHS = ((0, 0, 0, 0, 0), (1, 1, 1, 1, 1), (0, 0, 1, 1, 1), (1, 1, 0, 0, 0))
# The largest first: low-rank parts of layers that are kept at all epochs must not be empty.
WEIGHT_DECAYS = (1e-3, 5e-4, 1e-4)
LEARNING_RATES = {
    "AdaM": (0.01, 0.008, 0.006, 0.004, 0.002),
    "SGD": (0.1, 0.08, 0.06, 0.04, 0.02),
}
OPTIMIZERS = {"AdaM": torch.optim.Adam, "SGD": partial(torch.optim.SGD, momentum=MOMENTUM)}
FEWEST = 40  # networks of a family after the last epoch: see `hallmarks`
FAMILIES = {f"{optimizer}_{DATASET}": optimizer for optimizer in OPTIMIZERS}


def train_genprob(
    dataset: str,
    out: Path,
    *,
    networks: int | None = None,
    epochs: int = EPOCHS,
    device: str = "cpu",
    seed: int = 42,
    workers: int | None = None,
    images: Path | None = None,
) -> Path:
    """Train a family and write it under `out`, as the module says; resumes there.

    dataset: the family, a name of FAMILIES: an optimizer and a data set.
    networks: only the first so many of the grid, which has the widths as its slowest axis, then the
    weight decays, then the learning rates.
    workers: processes on a CPU, by default one a core; a GPU is driven by this process alone.
    images: the folder of Fashion-MNIST (GENGAP_IMAGES, or a download).

    A network is complete when its container is there: killing the run loses no finished one.

    Raises: GengapError for an unknown family, where `out` holds networks of other settings, and
    where images are not to be had.
    """
    if dataset not in FAMILIES:
        raise GengapError(f"no family {dataset!r} can be trained; there are: {', '.join(FAMILIES)}")
    job = Job(dataset, Path(out), epochs, device, seed, images)
    _write_settings(job)
    wanted = networks_of(dataset)[:networks]
    missing = [i for i, network in enumerate(wanted) if not job.container(network.name).exists()]
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="network") as bar:
        count = workers or cores()
        for _ in run_on(device, _train_and_save, missing, count, _start_worker, (job,)):
            bar.update()
    return job.out


@dataclass(frozen=True)
class Network:
    """A place in the grid of a family."""

    optimizer: str
    widths: tuple[int, ...]  # the digits of the code
    weight_decay: float
    learning_rate: float

    @property
    def name(self) -> str:
        rates = {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay}
        return genprob.network_name(self.widths, self.optimizer, **rates)


def networks_of(family: str) -> list[Network]:
    optimizer = FAMILIES[family]
    grid = itertools.product(WIDTHS, WEIGHT_DECAYS, LEARNING_RATES[optimizer])
    return [Network(optimizer, *values) for values in grid]


class Job(training.Job):
    """What a worker must know, and where it finds and leaves files."""

    def container(self, network: str) -> Path:
        return self.out / f"{network}_{DATASET}.zip"

    def model_id(self, network: str, epoch: int) -> str:
        """As the collection calls it."""
        return f"{self.family}/{network}/epoch_{epoch}"


def _write_settings(job: Job) -> None:
    """Images and settings of the family; GengapError if it was begun with other settings."""
    pixels, labels = load_images(FOLDER, "train", root=job.images)
    side = genprob.network_inputs(pixels[:1], DATASET).shape[-1]
    settings = {"epochs": job.epochs, "seed": job.seed, "images": IMAGES, "side": side}
    settings |= {"batch": BATCH, "planes": list(PLANES), "step": STEP, "factor": FACTOR}
    settings |= {"shift": SHIFT, "tested": TESTED, "tested_whole": list(TESTED_WHOLE)}
    file = job.out / job.family / SETTINGS
    check_settings(file, settings)
    write_idx_pair(job.out / FOLDER, "train", pixels[:IMAGES], labels[:IMAGES])
    write_json(file, settings)


_WORKER: dict = {}  # what a worker process holds between networks


def _start_worker(job: Job) -> None:
    train, test = _read_split("train", IMAGES, job), _read_split("test", None, job)
    _WORKER.update(job=job, train=train, test=test)


def _read_split(split: str, count: int | None, job: Job) -> Images:
    pixels, labels = load_images(FOLDER, split, root=job.images)
    inputs = genprob.network_inputs(pixels[:count], DATASET)
    return Images(inputs.to(job.device), torch.from_numpy(labels[:count]).to(job.device))


def _train_and_save(place: int) -> None:
    job, train, test = _WORKER["job"], _WORKER["train"], _WORKER["test"]
    chosen = networks_of(job.family)[place]
    torch.manual_seed(hash_seed(job.seed, place))
    planes = [PLANES[digit] for digit in chosen.widths]
    network = genprob.genprob_network(planes, CLASSES).to(job.device)
    records, spectra, members = {}, [], {}
    for epoch in fit(network, train, chosen, epochs=job.epochs):
        rounded = copy.deepcopy(network)
        round_weights(rounded)
        last = epoch == job.epochs - 1
        tested = test if last or epoch in TESTED_WHOLE else test[:TESTED]
        records[epoch] = recorded(rounded, train, tested)
        rows = network_spectra(rounded).assign(model_id=job.model_id(chosen.name, epoch))
        spectra.append(rows)
        if place < EVERY_EPOCH or last:
            name = genprob.checkpoint_name(chosen.name, DATASET, epoch)
            members[name] = genprob.checkpoint(rounded.state_dict(), records)
    members[f"{chosen.name}_{DATASET}_{genprob.SPECTRA}"] = packed_spectra(pd.concat(spectra))
    write_container(job.container(chosen.name), members)


def fit(network: nn.Sequential, train: Images, chosen: Network, *, epochs: int) -> Iterator[int]:
    """Train, and yield the number of each epoch, from 0, when it is over.

    The weight decay is of all parameters, and part of the gradient, also of Adam's.
    """
    optimizer = OPTIMIZERS[chosen.optimizer](
        network.parameters(), lr=chosen.learning_rate, weight_decay=chosen.weight_decay
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, STEP, FACTOR)
    augment = partial(shifted_and_mirrored, shift=SHIFT)
    for epoch in range(epochs):
        train_epoch(network, shuffled_batches(train, BATCH, augment), optimizer)
        schedule.step()
        yield epoch


def recorded(network: nn.Sequential, train: Images, test: Images) -> dict[str, float]:
    """Accuracies and losses as `checkpoint` wants them."""
    (train_accuracy, train_loss), (test_accuracy, test_loss) = (
        evaluate(network, split) for split in (train, test)
    )
    return {
        "train_accuracy": train_accuracy,
        "test_accuracy": test_accuracy,
        "train_loss": train_loss,
        "test_loss": test_loss,
    }


def packed_spectra(rows: pd.DataFrame) -> bytes:
    """A parquet file of spectra in float32, the epochs of each layer's row together.

    Neighbours differ little then, and the bytes of a number that do not change compress; a
    dictionary of numbers that hardly ever repeat would make the file half as large again.
    """
    exact = list(rows.select_dtypes("float64").columns)
    rows = rows.astype(dict.fromkeys(exact, "float32"))
    rows = rows.sort_values(["layer", "unfolding", "low_rank"], kind="stable")
    buffer = io.BytesIO()
    rows.to_parquet(
        buffer,
        index=False,
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in rows if name not in exact],
        use_byte_stream_split=exact,
    )
    return buffer.getvalue()


def hallmarks(index: pd.DataFrame) -> pd.DataFrame:
    """What makes these networks a replica of the published ones, and whether they are.

    index: the collection's. Columns: hallmark, wanted, found, met; a row for each of FAMILIES and
    each hallmark, for less than FEWEST networks only their number. The published curves force a
    rank correlation of test accuracy and gap of .81 or more.
    """
    rows = [
        (f"{family}: {hallmark}", wanted, found, bool(met))
        for family in FAMILIES
        for hallmark, wanted, found, met in _hallmarks_of(index[index["family"] == family])
    ]
    return pd.DataFrame(rows, columns=["hallmark", "wanted", "found", "met"])


def _hallmarks_of(models: pd.DataFrame) -> Iterator[tuple[str, str, str, bool]]:
    last = models[models["epoch"] == models["epoch"].max()]
    yield "networks", f"{FEWEST} or more", f"{len(last)}", len(last) >= FEWEST
    if len(last) < FEWEST:
        return
    epochs = int(last["epoch"].iloc[0]) + 1
    yield "epochs", f"{EPOCHS}", f"{epochs}", epochs == EPOCHS
    yield _grid_hallmark(last)
    least = last["train_accuracy"].min()
    yield "least training accuracy", "at most .90", f"{least:.3f}", least <= 0.9
    pair = last["test_accuracy"], last["train_accuracy"] - last["test_accuracy"]
    low, high = bootstrap_interval(rank_correlation, *pair, seed=0)
    name = "rank correlation of test accuracy and gap"
    found = f"{rank_correlation(*pair):.2f} [{low:.2f}, {high:.2f}]"
    yield name, "95 % interval above 0", found, low > 0


def _grid_hallmark(last: pd.DataFrame) -> tuple[str, str, str, bool]:
    codes = len(last.filter(like="hp_width_").drop_duplicates())
    found = codes, last["hp_learning_rate"].nunique(), last["hp_weight_decay"].nunique()
    met = all(have >= least for have, least in zip(found, (4, 5, 3), strict=True))
    name = "width codes, learning rates, weight decays"
    return name, "4, 5, 3 or more", ", ".join(map(str, found)), met


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's, between -1 and 1."""
    return float(stats.spearmanr(x, y).statistic)
