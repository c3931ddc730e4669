"""What trainers of one network after another share."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengap.errors import GengapError
from gengap.folders import write_atomically

MOMENTUM = 0.9


@dataclass(frozen=True)
class Job:
    """What a worker must know to train a network of a family."""

    family: str
    out: Path
    epochs: int
    device: str
    seed: int
    images: Path | None


def check_settings(file: Path, settings: dict) -> None:
    """GengapError if a run left other settings there: its networks would mix with others."""
    found = json.loads(file.read_text()) if file.exists() else settings
    if found != settings:
        raise GengapError(f"{file} says {found}, not {settings}: choose another --out.")


@dataclass(frozen=True)
class Images:
    """A split, or part of one, ready for a network."""

    inputs: Tensor  # (N, C, H, W) float32
    labels: Tensor  # (N,) int64


def momentum_sgd(network: nn.Module, *, rate: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with momentum 0.9 that decays kernels, not biases and the scales of normalizations."""
    kernels = [weight for weight in network.parameters() if weight.dim() > 1]
    others = [weight for weight in network.parameters() if weight.dim() == 1]
    groups = [{"params": kernels, "weight_decay": weight_decay}, {"params": others}]
    return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM)


@torch.no_grad()
def evaluate(network: nn.Sequential, images: Images) -> tuple[float, float]:
    """Accuracy (fraction) and mean cross-entropy (nats), without dropout and penalty."""
    logits = torch.cat([network.eval()(batch) for batch in images.inputs.split(1000)])
    correct = (logits.argmax(dim=1) == images.labels).double().mean()
    return float(correct), float(F.cross_entropy(logits.double(), images.labels))


def write_json(file: Path, content: dict) -> None:
    """Write a file that is there whole or not at all."""
    write_atomically(file, lambda path: path.write_text(json.dumps(content, indent=1)))
