"""All spectra of a 15-layer network like GenProb's against what the released code does for them.

Run: OMP_NUM_THREADS=1 python tests/benchmarks/spectra.py [--repeats 20]. The literal program
decomposes each unfolding four times, in full and in float32, and searches its noise variance twice,
as the released one does: once for the statistics and once for the norms, of the matrix and of its
low-rank part; so are its maxima, taken entry by entry. Both alternate, so that other work on the
machine meets both.
"""

import argparse
import time
from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from gengap.measures.spectra import network_spectra

WIDTHS = (3, 8, 40, 40, 40, 40, 48, 48, 48, 48, 48, 56, 56, 56, 64, 64)
ORDER = ["knowledge_gain", "condition_number", "effective_rank", "spectral_norm"]


def network() -> nn.Sequential:
    """Random 3 x 3 kernels whose rows differ in size, so that some of them stand out of noise."""
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Conv2d(i, o, 3) for i, o in pairwise(WIDTHS)))
    for layer in layers:
        rows = torch.linspace(0.2, 1, len(layer.weight)).reshape(-1, 1, 1, 1)
        layer.weight.data = 0.3 * rows * torch.randn_like(layer.weight)
    return layers


def free_energy(variance, rows, columns, values, bound):
    alpha = rows / columns
    x = values**2 / (columns * variance)
    signal, rest = x[x > bound], x[x <= bound]
    tau = (signal - (1 + alpha) + np.sqrt((signal - (1 + alpha)) ** 2 - 4 * alpha)) / 2
    energy = np.sum(rest - np.log(rest)) + np.sum(signal - tau)
    return energy + np.sum(np.log((tau + 1) / signal)) + alpha * np.sum(np.log(tau / alpha + 1))


def low_rank(matrix):
    rows, columns = matrix.shape
    alpha = rows / columns
    tau = 2.5129 * np.sqrt(alpha)
    bound = (1 + tau) * (1 + alpha / tau)
    left, values, right = torch.svd(matrix)
    most = int(min(np.ceil(rows / (1 + alpha)) - 1, rows))
    ends = [values[most] ** 2 / (columns * bound), torch.mean(values[most:] ** 2) / columns]
    variance = minimize_scalar(
        free_energy,
        args=(rows, columns, values.numpy(), bound),
        bounds=[float(max(ends)), float(torch.sum(values**2) / (rows * columns))],
        method="bounded",
    ).x
    count = torch.sum(values > np.sqrt(columns * variance * bound))
    squares = values[:count] ** 2
    sides = 1 - (rows + columns) * variance / squares
    root = torch.sqrt(sides**2 - 4 * rows * columns * variance**2 / squares**2)
    return left[:, :count], torch.diag(values[:count] / 2 * (sides + root)), right[:, :count]


def statistics(values, rows):
    if len(values) == 0:
        return [0, 0, 0]
    shares = values / np.sum(values)
    entropy = -np.sum(shares * np.log(shares))
    return [np.sum(values / max(values)) / rows, values[0] / values[-1], entropy]


def unfolding_metrics(matrix):
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    after = statistics(torch.diag(low_rank(matrix)[1]).numpy(), len(matrix))
    left, middle, right = low_rank(matrix)
    after.append(torch.diag(middle).numpy().max(initial=0))
    np.linalg.norm(left.numpy() @ middle.numpy() @ right.T.numpy())
    before = statistics(torch.svd(matrix)[1].numpy(), len(matrix))
    before.append(float(max(torch.svd(matrix)[1])))
    np.linalg.norm(matrix.numpy())
    return [before, after]


def literal(layers):
    found = []
    for layer in layers:
        weight = layer.weight.detach()
        found += unfolding_metrics(weight.permute(1, 0, 2, 3).reshape(weight.shape[1], -1))
        found += unfolding_metrics(weight.reshape(len(weight), -1))
    return np.array(found)


def seconds(function, *arguments):
    start = time.perf_counter()
    found = function(*arguments)
    return time.perf_counter() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    layers, spent = network(), []
    for _ in range(repeats):
        (ours, table), (theirs, expected) = (seconds(f, layers) for f in (network_spectra, literal))
        spent.append([ours, theirs])
    least, median = np.min(spent, axis=0), np.median(spent, axis=0)
    print(
        f"{len(layers)} layers, {torch.get_num_threads()} threads, {repeats} runs: least (median)"
    )
    for name, low, middle in zip(("network_spectra", "literal program"), least, median):
        print(f"{name:16s} {1000 * low:8.1f} ms ({1000 * middle:.1f} ms)")
    ratios = least[1] / least[0], np.median(np.divide(*np.transpose(spent)[::-1]))
    print(f"{ratios[0]:.1f} times as fast ({ratios[1]:.1f})")
    difference = np.abs(table[ORDER] - expected) / np.where(expected == 0, 1, np.abs(expected))
    print(f"largest relative difference, plain {difference[0::2].max(axis=None):.1e},", end=" ")
    print(f"low rank {difference[1::2].max(axis=None):.1e}")


if __name__ == "__main__":
    main()
