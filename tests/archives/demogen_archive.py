"""DEMOGEN's archive in miniature: its 756 directories, with very narrow networks.

Names, grids, keys and the deep path in the archive are those of the release (google-research,
demogen/model_config.py, and the forks that ran on the real files); they are written down here once
more, and not taken from the reader.
"""

import io
import json
import math
import tarfile
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from archives.tf1_checkpoint import files_of_checkpoint
from safetensors.numpy import load

from gengap.collections.demogen import packed_weights
from gengap.collections.demogen_networks import nin, resnet32

HOME = "demogen_models/home/ydjiang/experimental_results/model_dataset"
STEPS = 150_000
NARROW = {"nin": 4, "resnet": 1}  # channels in place of 192 and 16
REGULARIZED = {"augmentation": [True, False], "copy": [1, 2, 3]}
SPEC = {
    "NIN_CIFAR10": {
        "wide_multiplier": [1.0, 1.5, 2.0],
        "batchnorm": [True, False],
        "dropout_prob": [0.0, 0.2, 0.5],
        "augmentation": [True, False],
        "decay_fac": [0.0, 0.001, 0.005],
        "copy": [1, 2],
    },
    "RESNET_CIFAR10": REGULARIZED
    | {
        "wide_multiplier": [1.0, 2.0, 4.0],
        "normalization": ["batch", "group"],
        "decay_fac": [0.0, 0.02, 0.002],
        "learning_rate": [0.01, 0.001],
    },
    "RESNET_CIFAR100": REGULARIZED
    | {
        "wide_multiplier": [1.0, 2.0, 4.0],
        "normalization": ["batch", "group"],
        "decay_fac": [0.0, 0.02, 0.002],
        "learning_rate": [0.1, 0.01, 0.001],
    },
}


def directory(family: str, setting: dict) -> str:
    """`get_model_dir_name` of model_config.py."""
    augmented = "aug" if setting["augmentation"] else ""
    wide, decay = f"wide_{setting['wide_multiplier']}x", f"decay_{setting['decay_fac']}"
    if family.startswith("NIN"):
        normalized, dropout = "bn" if setting["batchnorm"] else "", setting["dropout_prob"]
        parts = ["nin", wide, normalized, f"dropout_{dropout}", augmented, decay]
    else:
        parts = ["resnet", wide, f"{setting['normalization']}norm", augmented, decay]
        if setting["learning_rate"] != 0.01:
            parts.append(f"lr_{setting['learning_rate']}")
    return "_".join([*parts, str(setting["copy"])])


def write_demogen(archive: Path, images: Path | None = None) -> None:
    """demogen_models.tar.gz, and in `images` a few made-up images of CIFAR in their binary form."""
    rng = np.random.default_rng(0)
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        add(tar, f"{HOME}/all_model_spec.json", json.dumps(SPEC).encode())
        for family, grid in SPEC.items():
            for values in product(*grid.values()):
                setting = dict(zip(grid, values))
                folder = f"{HOME}/{family}/{directory(family, setting)}"
                for name, content in files_of_network(family, setting, rng).items():
                    add(tar, f"{folder}/{name}", content)
    if images:
        write_cifar(images, rng)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def files_of_network(family: str, setting: dict, rng: np.random.Generator) -> dict[str, bytes]:
    """Name -> content of the files in a network's directory, also of those that nobody reads."""
    prefix = f"model.ckpt-{STEPS}"
    checkpoint = files_of_checkpoint(variables(family, setting, rng))
    train, gap = accuracies(setting, rng)
    recorded = {"train": train, "eval": train - gap}
    records = {
        f"{split}.json": json.dumps(
            {"loss": 1.2 - a, "CrossEntropy": 1.01 - a, "global_step": STEPS, "Accuracy": a}
        ).encode()
        for split, a in recorded.items()
    }
    files = {prefix + suffix: content for suffix, content in checkpoint.items()}
    return files | records | {f"{prefix}.meta": b"graph", "checkpoint": prefix.encode()}


def accuracies(setting: dict, rng: np.random.Generator) -> tuple[float, float]:
    """Training accuracy and gap, as a grid of regularization makes them differ."""
    train = 1 - 0.02 * rng.random() - 8 * setting["decay_fac"] * setting["augmentation"]
    gap = 0.22 - 0.08 * setting["augmentation"] - 0.02 * math.log2(setting["wide_multiplier"])
    gap += 0.04 * (setting.get("normalization") == "group") - 4 * setting["decay_fac"]
    return round(train, 5), round(gap + 0.01 * rng.standard_normal(), 5)


def variables(family: str, setting: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A network's variables by their names in TensorFlow, and the step, in the order of names."""
    classes = 100 if family.endswith("100") else 10
    normalization = setting.get("normalization", setting.get("batchnorm"))
    known = start(family.startswith("NIN"), setting["wide_multiplier"], normalization, classes)
    scale = 1 + 0.2 * rng.random()  # whatever else a network is, it is none of the others
    found = {name: (scale * value).astype(value.dtype) for name, value in known.items()}
    return dict(sorted((found | {"global_step": np.array(STEPS, np.int64)}).items()))


@cache
def start(is_nin: bool, wide: float, normalization: bool | str, classes: int) -> dict:
    """The variables of one network of each shape."""
    torch.manual_seed(classes)
    if is_nin:
        network = nin(int(NARROW["nin"] * wide), normalization, 0.0, classes)
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.constant_(layer.bias, 0.5)  # so few units must not all be off
    else:
        network = resnet32(int(NARROW["resnet"] * wide), normalization, classes)
    return load(packed_weights(network, "nin" if is_nin else "resnet"))


def write_cifar(folder: Path, rng: np.random.Generator, images: int = 5) -> None:
    """Few images in each file of the binary version of CIFAR-10 and CIFAR-100."""
    batches = {"cifar10": [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]}
    for dataset, names in (batches | {"cifar100": ["train", "test"]}).items():
        count = images * (5 if dataset == "cifar100" else 1)
        (folder / dataset).mkdir(parents=True)
        for name in names:
            labels = rng.integers(10, size=(count, 2 if dataset == "cifar100" else 1))
            records = np.hstack([labels, rng.integers(256, size=(count, 3 * 32 * 32))])
            (folder / dataset / f"{name}.bin").write_bytes(records.astype(np.uint8).tobytes())
