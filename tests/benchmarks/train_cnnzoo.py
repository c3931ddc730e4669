"""Networks trained per second by size of stack: grouped convolutions against torch.func.vmap.

Run: python tests/benchmarks/train_cnnzoo.py [--device cuda]. Made-up images of MNIST's size; one
epoch of ten steps of 512 images, one thread on a CPU. The sizes that `gengap train` takes by
default come from here.
"""

import argparse
import os
import sys
import time

import torch
import torch.nn.functional as F
from torch.func import grad, vmap

from gengap.replicas import cnnzoo as trainer
from gengap.replicas.pool import MALLOC

STEPS = 10


def made_up_images(count: int, device: str) -> trainer.Images:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(count, 1, 28, 28, generator=generator) * 2 - 1
    labels = torch.randint(0, 10, (count,), generator=generator)
    return trainer.Images(inputs.to(device), labels.to(device))


def grouped_gradient(weights, inputs, labels):
    """As the trainer takes it, without dropout."""
    leaf = weights.detach().requires_grad_()
    logits = trainer.stacked_logits(leaf, inputs, F.relu)
    targets = labels.repeat(len(weights))
    loss = F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum") / len(labels)
    return torch.autograd.grad(loss, leaf)[0]


def vmap_gradient(weights, inputs, labels):
    """The same gradient, one network's loss mapped over the stack."""

    def loss(row):
        logits = trainer.stacked_logits(row[None], inputs, F.relu)[0]
        return F.cross_entropy(logits, labels)

    return vmap(grad(loss))(weights)


def seconds_per_epoch(gradient, networks: int, images: trainer.Images) -> float:
    weights = 0.1 * torch.randn(networks, trainer.PARAMETERS, device=images.labels.device)
    batches = list(zip(images.inputs.split(trainer.BATCH), images.labels.split(trainer.BATCH)))
    gradient(weights, *batches[0]).sum().item()  # warm up
    start = time.perf_counter()
    for batch in batches:
        weights -= 1e-3 * gradient(weights, *batch)
    weights.sum().item()  # a GPU works behind our back: wait for it
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    images = made_up_images(STEPS * trainer.BATCH, device)
    sizes = (1, 2, 4, 8, 16) if device == "cpu" else (1, 16, 64, 256)
    print("images per second and network x networks, by stack size")
    for name, gradient in (("grouped", grouped_gradient), ("vmap", vmap_gradient)):
        for size in sizes:
            rate = size * STEPS * trainer.BATCH / seconds_per_epoch(gradient, size, images)
            print(f"{name:8s} {size:4d} {rate:10.0f}", flush=True)


if __name__ == "__main__":
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)
    main()
