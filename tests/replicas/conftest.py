"""What the trainers' tests share: images that a network learns in seconds."""

import numpy as np
import pytest

TRAIN, TEST = 2100, 300


@pytest.fixture(scope="session")
def image_root(tmp_path_factory):
    """Made-up MNIST and Fashion-MNIST: ten noisy patterns, in idx files."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (10, 28, 28))
    for prefix, count in (("train", TRAIN), ("t10k", TEST)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        pixels = (0.5 * patterns[labels] + rng.integers(0, 128, (count, 28, 28))).astype(np.uint8)
        for dataset in ("mnist", "fashion_mnist"):
            write_idx(root / dataset / f"{prefix}-images-idx3-ubyte", 2051, pixels)
            write_idx(root / dataset / f"{prefix}-labels-idx1-ubyte", 2049, labels)
    return root


@pytest.fixture(scope="session")
def in_this_process():
    """In place of `engine.results`: this process alone, where what is patched is seen."""

    def results(function, items, *, start, **_):
        held = start()
        for place, item in enumerate(items):
            yield from ((place, result) for result in function(held, item))

    return results


def write_idx(file, magic: int, values: np.ndarray) -> None:
    file.parent.mkdir(exist_ok=True)
    header = b"".join(number.to_bytes(4, "big") for number in (magic, *values.shape))
    file.write_bytes(header + values.tobytes())
