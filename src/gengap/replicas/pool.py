"""What trainers share: seeds, and worker processes of one thread that never outlive their run."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import torch

from gengap.errors import GengapError

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

    On a CPU they run in `workers` processes; a GPU is driven by this process alone.
    Raises: GengapError if a worker dies; what finished items have written is kept.
    """
    if torch.device(device).type == "cpu":
        yield from _run_in_processes(function, items, workers, start, arguments)
    else:
        start(*arguments)
        yield from map(function, items)


def _run_in_processes(
    function: Callable, items: Iterable, workers: int, start: Callable, arguments: tuple
) -> Iterator:
    os.environ.update(MALLOC)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (start, arguments)) as pool:
        pending = [pool.submit(function, item) for item in items]
        try:
            yield from (future.result() for future in as_completed(pending))
        except BrokenProcessPool as error:
            raise GengapError(
                "A training process died, perhaps for lack of memory; finished networks are kept:"
                " run the same command again, with fewer workers if need be."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(start: Callable, arguments: tuple) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    start(*arguments)


def _die_with_parent() -> None:
    """A killed run must not leave workers behind; files are renamed into place, so none is half."""
    multiprocessing.parent_process().join()
    os._exit(1)
