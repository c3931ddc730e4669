"""Retrain the Small CNN Zoo: the exact architecture, on real images, in the published format.

Many networks train at once: a *stack* of G networks is one tensor (G, 4970) in the published layout
and one grouped convolution a layer, with its own learning rate, l2, dropout and optimizer for each.
Networks of a stack share the activation and the training images, because these shape the
computation. Order of images and dropout noise depend on the seed and the epoch alone, so a network
comes out the same whatever stack it trains in.

Measured by tests/benchmarks/train_cnnzoo.py: on a CPU a stack of one network in one process a core
is fastest, since larger stacks leave the cache, and grouped convolutions equal `torch.func.vmap`.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pandas import DataFrame
from tqdm import tqdm

from gengap.collections.cnnzoo import LAYOUT, METRICS, PARAMETERS, finite_rows, write_zoo
from gengap.errors import GengapError
from gengap.folders import write_atomically
from gengap.formats.images import load_images, network_inputs
from gengap.replicas.pool import hash_seed, run_on

BATCH = 512
OPTIMIZERS = ("adam", "rmsprop", "sgd")
ACTIVATIONS = {"relu": F.relu, "tanh": torch.tanh}
INITIALIZERS = ("he_normal", "orthogonal", "glorot_normal", "RandomNormal", "TruncatedNormal")
TRAIN_FRACTIONS = (0.1, 0.25, 0.5, 1.0)
CPU_STACK, GPU_STACK = 1, 256  # networks that train at once in a process
EPSILON = 1e-7  # of Adam and RMSprop in Keras
TRUNCATED_STD = 0.87962566103423978  # of a standard normal cut at two standard deviations


def draw_configurations(dataset: str, networks: int, epochs: int, *, seed: int) -> DataFrame:
    """Hyper-parameters of the first `networks` networks, one row each, in the published columns.

    The ends of the ranges and the choices are published; that learning rate, l2 and init_std are
    log-uniform and dropout uniform is an assumption. Network i has its own generator: a longer
    zoo begins with the same networks.
    """
    rows = [_draw_configuration(np.random.default_rng([seed, i])) for i in range(networks)]
    constants = {
        "b_init": "zeros",
        "dataset": dataset,
        "dnn_architecture": "cnn",
        "epochs": epochs,
        "epochs_between_checkpoints": 20,
        "num_layers": 3,
        "num_units": 16,
        "random_seed": seed,
    }
    return DataFrame(rows).assign(**constants)


def _draw_configuration(rng: np.random.Generator) -> dict:
    def log_uniform(low, high):
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    return {
        "activation": str(rng.choice(list(ACTIVATIONS))),
        "dropout": float(rng.uniform(0, 0.7)),
        "init_std": log_uniform(1e-3, 0.5),
        "l2reg": log_uniform(1e-8, 1e-2),
        "learning_rate": log_uniform(5e-4, 5e-2),
        "optimizer": str(rng.choice(OPTIMIZERS)),
        "train_fraction": float(rng.choice(TRAIN_FRACTIONS)),
        "w_init": str(rng.choice(INITIALIZERS)),
    }


def draw_weights(configuration: dict, *, seed: int) -> torch.Tensor:
    """Initial weights (4970,) of one network: Keras's initializers, biases zero."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.zeros(PARAMETERS)
    for slot in LAYOUT:
        if len(slot.shape) > 1:
            kernel = _draw_kernel(configuration, slot.shape, generator)
            weights[slot.start : slot.end] = kernel.flatten()
    return weights


def _draw_kernel(configuration: dict, shape: tuple[int, ...], generator) -> torch.Tensor:
    receptive_field = int(np.prod(shape[:-2]))
    fan_in, fan_out = receptive_field * shape[-2], receptive_field * shape[-1]
    kernel = torch.empty(shape)
    match configuration["w_init"]:
        case "orthogonal":
            matrix = torch.empty(fan_in, shape[-1])
            return torch.nn.init.orthogonal_(matrix, generator=generator).reshape(shape)
        case "RandomNormal":
            return kernel.normal_(0, configuration["init_std"], generator=generator)
        case "TruncatedNormal":
            std = configuration["init_std"]
        case "he_normal":
            std = (2 / fan_in) ** 0.5 / TRUNCATED_STD
        case "glorot_normal":
            std = (2 / (fan_in + fan_out)) ** 0.5 / TRUNCATED_STD
    return torch.nn.init.trunc_normal_(kernel, 0, std, -2 * std, 2 * std, generator=generator)


def stacked_logits(weights, inputs, activation, masks=None) -> torch.Tensor:
    """Logits (G, B, 10) of G networks, `weights` (G, 4970), on the same `inputs` (B, 1, H, W).

    `masks(shape)` gives a dropout mask for activations of shape (B, G, 16, h, w).
    """
    networks = len(weights)
    tensors = [weights[:, s.start : s.end].reshape(networks, *s.shape) for s in LAYOUT]
    hidden = inputs
    for layer in range(3):
        bias, kernel = tensors[2 * layer], tensors[2 * layer + 1]
        kernel = kernel.permute(0, 4, 3, 1, 2).flatten(0, 1).contiguous()
        groups = 1 if layer == 0 else networks  # the first layer sees the same images everywhere
        hidden = activation(F.conv2d(hidden, kernel, bias.flatten(), stride=2, groups=groups))
        if masks is not None:
            stacked = hidden.unflatten(1, (networks, 16))
            hidden = (stacked * masks(stacked.shape)).flatten(1, 2)
    pooled = hidden.mean(dim=(2, 3)).unflatten(1, (networks, 16)).transpose(0, 1)
    return torch.baddbmm(tensors[6][:, None], pooled, tensors[7])


class StackedOptimizer:
    """Keras's Adam, RMSprop and plain SGD (default constants), one choice a row of the stack."""

    def __init__(self, configurations: DataFrame, device):
        def column(values):
            return torch.tensor(np.asarray(values, np.float32), device=device)[:, None]

        kind = configurations["optimizer"].to_numpy()
        self.learning_rate = column(configurations["learning_rate"])
        self.first_decay = column(np.where(kind == "adam", 0.9, 0))
        self.second_decay = column(np.select([kind == "adam", kind == "rmsprop"], [0.999, 0.9]))
        self.adam, self.sgd = column(kind == "adam") > 0, column(kind == "sgd") > 0
        self.first = torch.zeros(len(kind), PARAMETERS, device=device)
        self.second = torch.zeros_like(self.first)
        self.steps = 0

    def step(self, weights: torch.Tensor, gradient: torch.Tensor) -> None:
        """Update `weights` (G, 4970) in place."""
        self.steps += 1
        self.first = torch.lerp(gradient, self.first, self.first_decay)
        self.second = torch.lerp(gradient.square(), self.second, self.second_decay)
        correction = (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        rate = torch.where(self.adam, correction, 1.0) * self.learning_rate
        root = torch.where(self.sgd, 1.0, self.second.sqrt() + EPSILON)
        weights.sub_(rate * self.first / root)


class DropoutMasks:
    """Inverted dropout with one noise for all networks of a stack, and a rate for each.

    Each network sees fair noise of its own rate; sharing it saves G - 1 of G random numbers. 16
    random bits decide, so rates are rounded to 1/65536: on a CPU many times faster than
    `bernoulli_`.
    """

    def __init__(self, rates, device, *, seed: int, epoch: int):
        keep = 1 - np.asarray(rates)
        largest_kept = np.round(keep * 65536 - 32769).astype(np.int16)
        self.largest_kept = largest_kept.reshape(1, -1, 1, 1, 1)
        self.scale = torch.tensor(1 / keep, dtype=torch.float32, device=device).view(1, -1, 1, 1, 1)
        self.rng = np.random.Generator(np.random.SFC64([seed, epoch]))
        self.device_rng = torch.Generator(device).manual_seed(seed * 1000 + epoch)

    def __call__(self, shape: tuple[int, ...]) -> torch.Tensor:
        batch, _, *unit = shape
        noise_shape = (batch, 1, *unit)
        on_cpu = self.scale.device.type == "cpu"
        kept = self._kept_on_cpu(noise_shape) if on_cpu else self._kept_on_device(noise_shape)
        return kept.float().mul_(self.scale)

    def _kept_on_cpu(self, shape: tuple[int, ...]) -> torch.Tensor:
        words = self.rng.integers(0, 2**64, size=-(-math.prod(shape) // 4), dtype=np.uint64)
        bits = words.view(np.int16)[: math.prod(shape)].reshape(shape)
        return torch.from_numpy(bits <= self.largest_kept)

    def _kept_on_device(self, shape: tuple[int, ...]) -> torch.Tensor:
        bits = torch.empty(shape, dtype=torch.int16, device=self.scale.device)
        bits.random_(-32768, 32768, generator=self.device_rng)
        return bits <= torch.from_numpy(self.largest_kept).to(bits.device)


@dataclass(frozen=True)
class Images:
    """A split, ready for the network."""

    inputs: torch.Tensor  # (N, 1, H, W) float32 in [-1, 1]
    labels: torch.Tensor  # (N,) int64

    def first(self, fraction: float) -> "Images":
        count = round(len(self.labels) * fraction)
        return Images(self.inputs[:count], self.labels[:count])


@torch.no_grad()
def evaluate(weights, images: Images, activation) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy (fraction) and mean cross-entropy (nats, without the l2 term), each (G,)."""
    networks = len(weights)
    correct = torch.zeros(networks, dtype=torch.int64, device=weights.device)
    loss = torch.zeros(networks, dtype=torch.float64, device=weights.device)
    for inputs, labels in zip(images.inputs.split(1000), images.labels.split(1000)):
        logits = stacked_logits(weights, inputs, activation)
        correct += (logits.argmax(-1) == labels).sum(1)
        stacked_labels = labels.expand(networks, -1)
        losses = F.cross_entropy(logits.transpose(1, 2), stacked_labels, reduction="none")
        loss += losses.sum(1, dtype=torch.float64)
    count = len(images.labels)
    return (correct.double() / count).cpu().numpy(), (loss / count).cpu().numpy()


def train_stack(
    configurations: DataFrame, train: Images, test: Images, *, checkpoints: list[int], seed: int
) -> list[dict]:
    """Train G networks that share activation and training images.

    Returns one dict a checkpoint: `step` (epoch), `weights` (G, 4970) and the four metrics, (G,).
    """
    device = train.inputs.device
    activation = ACTIVATIONS[configurations["activation"].iloc[0]]
    train = train.first(configurations["train_fraction"].iloc[0])
    rows = configurations.to_dict("index")
    start = [draw_weights(row, seed=hash_seed(seed, network)) for network, row in rows.items()]
    weights = torch.stack(start).to(device)
    optimizer = StackedOptimizer(configurations, device)
    decay = _kernel_decay(configurations, device)
    done = []
    for epoch in range(max(checkpoints) + 1):
        if epoch:
            masks = DropoutMasks(configurations["dropout"], device, seed=seed, epoch=epoch)
            _train_epoch(weights, train, activation, masks, decay, optimizer, seed=seed + epoch)
        if epoch in checkpoints:
            done.append(_checkpoint(epoch, weights, train, test, activation))
    return done


def _kernel_decay(configurations: DataFrame, device) -> torch.Tensor:
    """Twice the l2 coefficient at kernels, 0 at biases, (G, 4970): the gradient of l2 * |w|^2."""
    is_kernel = torch.zeros(PARAMETERS)
    for slot in LAYOUT:
        is_kernel[slot.start : slot.end] = len(slot.shape) > 1
    l2 = torch.tensor(configurations["l2reg"].to_numpy(np.float32))
    return (2 * l2[:, None] * is_kernel).to(device)


def _train_epoch(weights, train, activation, masks, decay, optimizer, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train.labels), generator=generator).to(weights.device)
    full_batches = len(order) // BATCH  # the remainder is dropped, as published
    for chosen in order[: full_batches * BATCH].split(BATCH):
        inputs, labels = train.inputs[chosen], train.labels[chosen]
        leaf = weights.detach().requires_grad_()
        logits = stacked_logits(leaf, inputs, activation, masks)
        targets = labels.repeat(len(weights))
        loss = F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum") / len(labels)
        (gradient,) = torch.autograd.grad(loss, leaf)
        optimizer.step(weights, gradient + decay * weights)


def _checkpoint(epoch: int, weights, train: Images, test: Images, activation) -> dict:
    train_accuracy, train_loss = evaluate(weights, train, activation)
    test_accuracy, test_loss = evaluate(weights, test, activation)
    return {
        "step": epoch,
        "weights": weights.cpu().numpy().copy(),
        "test_accuracy": test_accuracy,
        "test_loss": test_loss,
        "train_accuracy": train_accuracy,
        "train_loss": train_loss,
    }


def train_zoo(
    dataset: str,
    out: Path,
    *,
    networks: int = 100,
    epochs: int = 86,
    device: str = "cpu",
    seed: int = 42,
    stack: int | None = None,
    workers: int | None = None,
    all_checkpoints: int | None = None,
    images: Path | None = None,
) -> Path:
    """Train a zoo and write it in the published format to `out`; resumes what it began there.

    `stack` networks train at once: by default 1 on a CPU, in each of `workers` processes (one a
    core), and 256 on a GPU, which one process drives. The first `all_checkpoints` networks (all by
    default) keep every published checkpoint, the others the last only. A finished network is a file
    of its own in `out/networks`, renamed into place: killing the run loses none.

    Raises: GengapError where `out` holds a zoo of other settings, or images are not to be had.
    """
    out = Path(out)
    kept = networks if all_checkpoints is None else all_checkpoints
    configurations = draw_configurations(dataset, networks, epochs, seed=seed)
    missing = [i for i in configurations.index if not _network_file(out, i).exists()]
    for split in ("train", "test") if missing else ():
        load_images(dataset, split, root=images)  # downloads and fails once, not in every worker
    _check_settings(out, dataset=dataset, epochs=epochs, seed=seed)
    on_cpu = torch.device(device).type == "cpu"
    size = stack or (CPU_STACK if on_cpu else GPU_STACK)
    stacks = _stacks(configurations.loc[missing], size, kept)
    worker = (dataset, device, images, out, epochs, seed, kept)
    with tqdm(total=networks, initial=networks - len(missing), unit="network") as progress:
        count = workers or os.cpu_count()
        for finished in run_on(device, _train_and_save, stacks, count, _start_worker, worker):
            progress.update(finished)
    return publish(out, configurations)


def checkpoint_epochs(epochs: int) -> list[int]:
    """The published rule, 0, 1, 2, 3, 20, 40, 60, 80, 86, for any number of epochs."""
    return sorted({e for e in (0, 1, 2, 3, *range(20, epochs, 20)) if e <= epochs} | {epochs})


def _check_settings(out: Path, **settings) -> None:
    """Refuse to mix two zoos in one folder."""
    file = out / "zoo.json"
    if not file.exists():
        write_atomically(file, lambda path: path.write_text(json.dumps(settings)))
    elif (found := json.loads(file.read_text())) != settings:
        raise GengapError(
            f"{out} holds a zoo trained with {found}, not {settings}: choose another --out."
        )


def _network_file(out: Path, network: int) -> Path:
    return out / "networks" / f"{network:06d}.npz"


def _stacks(configurations: DataFrame, size: int, kept: int) -> list[DataFrame]:
    """Networks that can train together, in the order of their first network."""
    shared = [configurations["activation"], configurations["train_fraction"]]
    groups = configurations.groupby([*shared, configurations.index < kept]).groups.values()
    parts = [group[i : i + size] for group in groups for i in range(0, len(group), size)]
    return [configurations.loc[part] for part in sorted(parts, key=min)]


_WORKER: dict = {}  # what a worker process holds between stacks


def _start_worker(dataset, device, images, out, epochs, seed, kept) -> None:
    splits = {split: _images(dataset, split, images, device) for split in ("train", "test")}
    _WORKER.update(splits, out=out, epochs=epochs, seed=seed, kept=kept)


def _images(dataset: str, split: str, root: Path | None, device: str) -> Images:
    pixels, labels = load_images(dataset, split, root=root)
    inputs = torch.from_numpy(network_inputs(pixels)).to(device)
    return Images(inputs, torch.from_numpy(labels).to(device))


def _train_and_save(configurations: DataFrame) -> int:
    epochs, seed = _WORKER["epochs"], _WORKER["seed"]
    keeps_all = configurations.index[0] < _WORKER["kept"]
    checkpoints = checkpoint_epochs(epochs) if keeps_all else [epochs]
    done = train_stack(
        configurations, _WORKER["train"], _WORKER["test"], checkpoints=checkpoints, seed=seed
    )
    for position, network in enumerate(configurations.index):
        rows = {key: np.stack([c[key][position] for c in done]) for key in done[0] if key != "step"}
        steps = np.array([c["step"] for c in done])
        file = _network_file(_WORKER["out"], network)
        write_atomically(file, lambda path: np.savez(path, step=steps, **rows))
    return len(configurations)


def publish(out: Path, configurations: DataFrame) -> Path:
    """Write the finished networks of `out` as weights.npy, metrics.csv.gz and layout.csv.

    Rows that are not finite, of networks that diverged, are left out, as in the published tables.
    """
    weights, metrics = [], []
    for network, configuration in configurations.to_dict("index").items():
        with np.load(_network_file(out, network), allow_pickle=False) as saved:
            rows = DataFrame({key: saved[key] for key in METRICS})
            weights.append(saved["weights"])
        config = {f"config.{key}": value for key, value in configuration.items()}
        modeldir = f"{configuration['dataset']}/{network:06d}"
        metrics.append(
            rows.assign(**config, modeldir=modeldir)[[*sorted(config), "modeldir", *METRICS]]
        )
    matrix, table = np.concatenate(weights), pd.concat(metrics, ignore_index=True)
    finite = finite_rows(matrix) & np.isfinite(table[list(METRICS)]).all(axis=1).to_numpy()
    write_zoo(out, matrix[finite], table[finite])
    return out
