"""Images per second of hidden margins and total variation in full-width networks, and the memory.

Run: python tests/benchmarks/margins.py [--images 1000] [--threads 2] [--device cpu]. Random weights
and images; of three passes over them the fastest counts. The released TensorFlow code, on two
threads of such a machine, took five passes: 189 images a second for NiN, 178 for ResNet-32 with
batch and 159 with group normalization.

With --memory NAME a single pass, and the most memory that this process ever held.
"""

import argparse
import resource
import time

import torch

from gengap.collection import usable_device
from gengap.collections.demogen_networks import in_fastest_format, nin, resnet32
from gengap.measures.margins import margin_pass

NETWORKS = {
    "nin": lambda: nin(192, batch_norm=True, dropout=0.0, classes=10),
    "resnet_batch": lambda: resnet32(16, "batch", classes=10),
    "resnet_group": lambda: resnet32(16, "group", classes=10),
}
RELEASED = {"nin": 189, "resnet_batch": 178, "resnet_group": 159}  # images per second
PASSES = 3


def sample(images: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    inputs = torch.randn(images, 3, 32, 32)
    return inputs.to(device), torch.randint(10, (images,), device=device)


def seconds_of_a_pass(network: torch.nn.Sequential, inputs, labels) -> float:
    start = time.perf_counter()
    margins = margin_pass(network, inputs, labels).margins
    margins["inputs"].sum().item()  # waits for a GPU
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", choices=NETWORKS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = usable_device(arguments.device)
    inputs, labels = sample(arguments.images, device)
    for name in [arguments.memory] if arguments.memory else NETWORKS:
        network = in_fastest_format(NETWORKS[name]().to(device).eval())
        if not arguments.memory:
            seconds_of_a_pass(network, inputs[:100], labels[:100])  # warms up
        passes = 1 if arguments.memory else PASSES
        best = min(seconds_of_a_pass(network, inputs, labels) for _ in range(passes))
        speed = arguments.images / best
        print(f"{name:13s} {speed:7.0f} images/s, {speed / RELEASED[name]:5.1f} times the released")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB for {arguments.images} images")


if __name__ == "__main__":
    main()
