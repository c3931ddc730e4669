"""Train networks of GenProb's family on a few images, in the published format, and keep all epochs.

The architecture, the learning rates, weight decays, momentum and the steps of the learning rate are
published; the networks here are narrower, see fewer images for fewer epochs, and in smaller batches.
The factor by which the rate falls was not released, nor whether images were augmented: 0.5, and no.

What a run of a family leaves under its folder `out`, which families may share:

`<network>_FashionMNIST_epoch_<E>.pth.tar`: the weights, of the first EVERY_EPOCH networks of a
family after every epoch, of the others after the last.
`<family>/epochs.parquet`: for every network and epoch the columns of the collection's index.
`<family>/spectra.parquet`: for every network and epoch model_id, and what `network_spectra` says of
each layer, in float32.
`<family>/training.json`: what all networks of the family share.
`fashion_mnist/`: the training images.

While networks are trained the rows of each finished one are in `<family>/parts/`.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from gengap.collections import genprob
from gengap.errors import GengapError
from gengap.folders import write_atomically
from gengap.formats.images import load_images, write_idx_pair
from gengap.measures.spectra import network_spectra
from gengap.replicas import training
from gengap.replicas.pool import hash_seed, run_on
from gengap.replicas.training import MOMENTUM, Images, check_settings, evaluate, write_json

DATASET, FOLDER = "FashionMNIST", "fashion_mnist"  # as files are named, as images are
SETTINGS = "training.json"
CLASSES = 10
IMAGES = 2000  # the first training images
BATCH = 50
EPOCHS = 41
STEP, FACTOR = 10, 0.5  # of the learning rate: epochs until it falls, and to which part
EVERY_EPOCH = 2  # networks of a family of which the weights of all epochs are kept
PLANES = (6, 10)  # channels of a cell whose digit in the width code is 0 or 1
WIDTHS = ((0, 0, 0, 0, 0), (1, 1, 1, 1, 1))
# The largest first: low-rank parts of layers that are kept at all epochs must not be empty.
WEIGHT_DECAYS = (1e-3, 5e-4, 1e-4)
LEARNING_RATES = {
    "AdaM": (0.01, 0.008, 0.006, 0.004, 0.002),
    "SGD": (0.1, 0.08, 0.06, 0.04, 0.02),
}
OPTIMIZERS = {"AdaM": torch.optim.Adam, "SGD": partial(torch.optim.SGD, momentum=MOMENTUM)}
FAMILIES = {f"{optimizer}_{DATASET}": optimizer for optimizer in OPTIMIZERS}
TABLES = {"spectra": ["model_id", "layer", "unfolding", "low_rank"], "epochs": ["model_id"]}


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

    A network is complete when its records are written, as its last file: killing the run loses no
    finished one.

    Raises: GengapError for an unknown family, where `out` holds networks of other settings, and
    where images are not to be had.
    """
    if dataset not in FAMILIES:
        raise GengapError(f"no family {dataset!r} can be trained; there are: {', '.join(FAMILIES)}")
    job = Job(dataset, Path(out), epochs, device, seed, images)
    _write_settings(job)
    wanted = networks_of(dataset)[:networks]
    done = job.done()
    missing = [place for place, network in enumerate(wanted) if network.name not in done]
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="network") as bar:
        count = workers or os.cpu_count()
        for _ in run_on(device, _train_and_save, missing, count, _start_worker, (job,)):
            bar.update()
    _join(job, [network.name for network in wanted])
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

    def table(self, kind: str) -> Path:
        """Where the rows of all networks are in the end; kind: a name of TABLES."""
        return self.out / self.family / f"{kind}.parquet"

    def part(self, kind: str, network: str) -> Path:
        """Where those of one network are until then."""
        return self.out / self.family / "parts" / f"{network}.{kind}.parquet"

    def model_id(self, network: str, epoch: int) -> str:
        """As the collection calls it."""
        return f"{self.family}/{network}/epoch_{epoch}"

    def done(self) -> set[str]:
        """Names of the networks that are complete."""
        parts = {n.name for n in networks_of(self.family) if self.part("epochs", n.name).exists()}
        if not self.table("epochs").exists():
            return parts
        joined = pd.read_parquet(self.table("epochs"), columns=["model_id"])["model_id"]
        return parts | set(joined.str.split("/").str[1])


def _write_settings(job: Job) -> None:
    """Images and settings of the family; GengapError if it was begun with other settings."""
    pixels, labels = load_images(FOLDER, "train", root=job.images)
    side = genprob.network_inputs(pixels[:1], DATASET).shape[-1]
    settings = {"epochs": job.epochs, "seed": job.seed, "images": IMAGES, "side": side}
    settings |= {"batch": BATCH, "planes": list(PLANES), "step": STEP, "factor": FACTOR}
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
    """The rows of epochs.parquet last: a network has them, or it is trained again."""
    job, train, test = _WORKER["job"], _WORKER["train"], _WORKER["test"]
    chosen = networks_of(job.family)[place]
    torch.manual_seed(hash_seed(job.seed, place))
    planes = [PLANES[digit] for digit in chosen.widths]
    network = genprob.genprob_network(planes, CLASSES).to(job.device)
    records, spectra = {}, []
    for epoch in fit(network, train, chosen, epochs=job.epochs):
        records[epoch] = recorded(network, train, test)
        rows = network_spectra(network).assign(model_id=job.model_id(chosen.name, epoch))
        spectra.append(rows)
        if place < EVERY_EPOCH or epoch == job.epochs - 1:
            file = genprob.checkpoint_file(job.out, chosen.name, DATASET, epoch)
            genprob.write_checkpoint(file, network.state_dict(), records)
    rows = pd.concat(spectra, ignore_index=True)
    exact = rows.select_dtypes("float64").columns
    _write(rows.astype(dict.fromkeys(exact, "float32")), job.part("spectra", chosen.name))
    _write(_index_rows(job, chosen.name, records), job.part("epochs", chosen.name))


def fit(network: nn.Sequential, train: Images, chosen: Network, *, epochs: int) -> Iterator[int]:
    """Train, and yield the number of each epoch, from 0, when it is over.

    The weight decay is of all parameters, and part of the gradient, also of Adam's.
    """
    parameters = network.parameters()
    optimizer = OPTIMIZERS[chosen.optimizer](
        parameters, lr=chosen.learning_rate, weight_decay=chosen.weight_decay
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, STEP, FACTOR)
    for epoch in range(epochs):
        network.train()
        for batch in torch.randperm(len(train.labels)).split(BATCH):
            loss = F.cross_entropy(network(train.inputs[batch]), train.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        yield epoch


def recorded(network: nn.Sequential, train: Images, test: Images) -> dict[str, float]:
    """Accuracies and losses as `write_checkpoint` wants them."""
    (train_accuracy, train_loss), (test_accuracy, test_loss) = (
        evaluate(network, split) for split in (train, test)
    )
    return {
        "train_accuracy": train_accuracy,
        "test_accuracy": test_accuracy,
        "train_loss": train_loss,
        "test_loss": test_loss,
    }


def _index_rows(job: Job, network: str, records: dict[int, dict[str, float]]) -> pd.DataFrame:
    return pd.DataFrame(
        {"model_id": job.model_id(network, epoch), "family": job.family, "epoch": epoch}
        | record
        | genprob.hyper_parameters(network)
        for epoch, record in records.items()
    )


def _join(job: Job, names: list[str]) -> None:
    """The parts of finished networks into the tables; the records last, and only then they go."""
    for kind, keys in TABLES.items():
        files = [job.table(kind), *(job.part(kind, name) for name in names)]
        parts = [pd.read_parquet(file) for file in files if file.exists()]
        rows = pd.concat(parts, ignore_index=True)
        # A run that was killed while it joined has left parts of what is in the table.
        _write(rows.drop_duplicates(keys, ignore_index=True), job.table(kind))
    for file in [job.part(kind, name) for name in names for kind in reversed(TABLES)]:
        file.unlink(missing_ok=True)


def _write(rows: pd.DataFrame, file: Path) -> None:
    # A dictionary of numbers that hardly ever repeat makes the file half as large again.
    repeated = list(rows.select_dtypes(exclude="floating").columns)
    options = {"index": False, "compression": "zstd", "use_dictionary": repeated}
    write_atomically(file, lambda path: rows.to_parquet(path, **options))
