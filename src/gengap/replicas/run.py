"""What trainers share: a seed for each network, and processes in which networks are trained."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import torch

from gengap.tables import engine

# glibc returns large freed blocks to the system and faults them in again at every layer: with these
# thresholds a CPU trains twice as fast. Read when a process starts; elsewhere without effect.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}


def hash_seed(seed: int, network: int) -> int:
    """A seed for each network of a run, far from those of its neighbours."""
    return int(np.random.SeedSequence([seed, network]).generate_state(1)[0])


def run_on(
    device: str | torch.device,
    function: Callable,
    items: Iterable,
    workers: int,
    start: Callable,
    arguments: tuple,
) -> Iterator:
    """Yield `function(item)` as the items finish, after `start(*arguments)` where they run.

    On a CPU they run in `workers` processes of one thread; a GPU is driven by this process alone.
    Within `gengap.tables.engine.on_scheduler` they run on that cluster.
    Raises: GengapError if a worker dies twice on one item; what finished items have written is
    kept.
    """
    in_processes = torch.device(device).type == "cpu"
    found = engine.results(
        partial(_trained, function),
        items,
        start=partial(_started, start) if in_processes else start,
        arguments=arguments,
        workers=workers,
        device=device,
        environment=MALLOC,
    )
    for _, result in found:
        yield result


def _started(start: Callable, *arguments: object) -> None:
    torch.set_flush_denormal(True)  # numbers too small for float32's usual form are slow
    start(*arguments)


def _trained(function: Callable, _: None, item: object) -> tuple[object]:
    return (function(item),)
