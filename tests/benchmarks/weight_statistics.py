"""The zoo's statistics of the layers of 30,000 networks against `np.apply_along_axis` over them.

Run: python tests/benchmarks/weight_statistics.py [--rows 30000]. Made-up weights in a file that is
memory-mapped, as the published one; both read it once, one after the other, in one process of one
thread.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from gengap.collections.cnnzoo import LAYOUT, PARAMETERS, open_matrix, weight_statistics


def write_weights(file: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, PARAMETERS)}
    with open(file, "wb") as opened:
        np.lib.format.write_array_header_1_0(opened, header)
        for first in range(0, rows, 1000):
            shape = min(1000, rows - first), PARAMETERS
            rng.standard_normal(shape, dtype=np.float32).tofile(opened)


def seven(vector: np.ndarray) -> list[float]:
    return [*np.percentile(vector, [0, 25, 50, 75, 100]), np.std(vector), np.mean(vector)]


def along_axis(weights: np.ndarray) -> np.ndarray:
    parts = [np.apply_along_axis(seven, 1, weights[:, s.start : s.end]) for s in LAYOUT]
    return np.concatenate(parts, axis=1)


def peak_megabytes() -> float:
    """The most memory that this process ever held, mapped pages of the file included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=30_000)
    rows = parser.parse_args().rows
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.npy"
        write_weights(file, rows)
        seconds, found = [], []
        for statistics in (weight_statistics, along_axis):
            start = time.perf_counter()
            found.append(statistics(open_matrix(file)))
            seconds.append(time.perf_counter() - start)
            print(
                f"{statistics.__name__:18s} {seconds[-1]:8.2f} s, peak {peak_megabytes():6.0f} MB"
            )
    print(f"{rows} rows: {seconds[1] / seconds[0]:.1f} times as fast")
    print(f"largest difference: {np.abs(found[0] - found[1]).max():.1e}")


if __name__ == "__main__":
    main()
