"""The engine: runs a function on items in processes of one thread each, here or on a cluster.

Measures, details, training, chapters and the fits of a study go through `results`. Processes are
those of Dask's `distributed`: of a cluster on this machine, bound to loopback, that ends with this
process; or of one that is there already. On a CPU results depend neither on which nor on how many.
"""

import atexit
import contextlib
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import cloudpickle
import torch
from threadpoolctl import threadpool_limits

from gengap.errors import GengapError

# What takes no longer is done in this process: a worker needs seconds to start and import PyTorch.
SECONDS_ALONE = 2.0
SECONDS_TO_CONNECT = 10
SECONDS_TO_CLOSE = 20
SECONDS_WITHOUT_WORKERS = 300  # here, where none will come; a batch system may start some later
AHEAD = 1000  # items given to a cluster of unknown size before the first is done,
BYTES_AHEAD = 2**31  # or no more than one a worker, where that many bytes wait in its scheduler

ONE_THREAD = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1")
LOOPBACK = "127.0.0.1"
SILENT = 60  # above any level of logging: what matters is raised here
GPU = "GPU"  # the resource that a worker offers for its GPU
SETTINGS = {
    "distributed.scheduler.allowed-failures": 1,  # a task whose worker died is tried once again
    "distributed.admin.large-graph-warning-threshold": "1 TB",  # fits are sent with their weights
    # What a process watches of itself, up to 1,000 times a second, took a tenth of a core each.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.admin.tick.interval": "500ms",
}

Function = Callable[[Any, Any], Iterable]

# The address of the cluster of all that runs within `on_scheduler`. It is a variable of the
# environment so that the kernels of chapters, which are started within, use that cluster too.
SCHEDULER = "GENGAP_SCHEDULER"
OURS = "GENGAP_", "PYTHONPATH"  # how the variables begin that processes share with this one


def results(
    function: Function,
    items: Iterable,
    *,
    start: Callable[[], Any] = lambda: None,
    workers: int | None = None,
    scheduler: str | None = None,
    device: str | torch.device = "cpu",
    environment: Mapping[str, str] | None = None,
    alone: float = 0.0,
) -> Iterator[tuple[int, Any]]:
    """Each item's place, with each of the results of `function(held, item)`, as they are there.

    held: what `start()` returned, once in each process; None without it. workers: processes; None
    is one a core. scheduler: the address of a cluster in their place; empty is none, even within
    `on_scheduler`. device: anything but a CPU is driven by this process alone, or on a cluster by
    workers that offer the resource GPU.
    environment: of the processes, which are then started even for one worker. alone: seconds that
    this process works by itself before it starts others.

    Raises: what the function raises, after its results so far and those of items done before;
    GengapError if a worker dies twice on one item, or the cluster is not to be reached.
    """
    scheduler = os.environ.get(SCHEDULER) if scheduler is None else scheduler
    on_cpu, places = torch.device(device).type == "cpu", enumerate(items)
    if scheduler:
        for first in islice(places, 1):  # without any item nobody is connected to
            with _connected(scheduler, on_cpu) as client:
                every = chain([first], places)
                yield from _submitted(client, function, every, start, AHEAD, on_cpu)
        return
    workers = workers or cores()
    if not on_cpu:
        yield from _here(function, places, start())
        return
    if not environment:
        until = time.monotonic() + alone if workers > 1 else float("inf")
        if workers == 1 or alone:
            with one_thread():
                yield from _here(function, places, start(), until)
    begun = list(islice(places, workers))
    if len(begun) == 1 and not environment:
        with one_thread():
            yield from _here(function, iter(begun), start())
    elif begun:
        yield from _in_processes(function, begun, places, start, workers, environment or {})


@contextlib.contextmanager
def on_scheduler(address: str | None) -> Iterator[None]:
    """All `results` within are computed by this cluster, those of chapters' kernels too.

    Raises: GengapError, before anything begins, if the cluster is not to be reached.
    """
    if address:
        with _connected(address):
            pass
    with _set_environment({SCHEDULER: address} if address else {}):
        yield


def cores() -> int:
    """Those that this process may use: a container or a batch system may lend fewer than are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for PyTorch and what NumPy calls, as in a worker: last digits depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def run_command(command: Sequence[object], folder: Path, *, quiet: bool = False) -> bool:
    """Whether a command of another program ended well; it runs in a folder.

    quiet: what it prints is shown only if it did not.
    """
    ended = subprocess.run([*map(str, command)], cwd=folder, capture_output=quiet, text=True)
    if quiet and ended.returncode:
        sys.stderr.write(ended.stdout + ended.stderr)
    return ended.returncode == 0


# In this process


def _here(
    function: Function,
    places: Iterator[tuple[int, Any]],
    held: Any,
    until: float = float("inf"),
) -> Iterator[tuple[int, Any]]:
    while time.monotonic() < until and (following := next(places, None)):
        place, item = following
        for result in function(held, item):
            yield place, result


# In others


def _in_processes(function, first, rest, start, workers, environment):
    client = _local_client(len(first), tuple(environment.items()))
    ours = {name: value for name, value in os.environ.items() if name.startswith(OURS)}
    start = partial(_started_with, ours | environment, start)
    try:
        yield from _submitted(client, function, chain(first, rest), start, 2 * workers, True)
    except BaseException:  # something failed or was interrupted, and others are still at work
        _close_local()
        raise


def _started_with(ours: Mapping[str, str], start: Callable[[], object]) -> object:
    """In a process that may be of an earlier run: what `start` returns, with this run's folders."""
    for name in [name for name in os.environ if name.startswith(OURS)]:
        del os.environ[name]
    os.environ.update(ours)
    return start()


_LOCAL: dict[str, Any] = {}  # this process's own cluster: what it is for, itself, its client


def _local_client(workers: int, environment: tuple[tuple[str, str], ...]):
    """A client of a cluster of processes on this machine, which end with this process.

    It is kept for the next run that asks for the same: each worker takes seconds to start.
    """
    key = workers, environment
    if _LOCAL.get("key") == key:
        return _LOCAL["client"]
    _close_local()
    import dask
    from distributed import Client, LocalCluster

    variables = ONE_THREAD | dict(environment)
    settings = SETTINGS | {
        "distributed.nanny.pre-spawn-environ": variables,
        "distributed.scheduler.no-workers-timeout": f"{SECONDS_WITHOUT_WORKERS} s",
    }
    # Variables that are set already would go before those.
    with dask.config.set(settings), _set_environment(variables):
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host=LOOPBACK,
            scheduler_kwargs={"dashboard": False, "dashboard_address": f"{LOOPBACK}:0"},
            memory_limit=None,  # the system decides how much memory there is
            silence_logs=SILENT,
        )
        client = Client(cluster, set_as_default=False)
    _LOCAL.update(key=key, cluster=cluster, client=client)
    return client


def _close_local() -> None:
    if _LOCAL:
        client, cluster = _LOCAL.pop("client"), _LOCAL.pop("cluster")
        _LOCAL.clear()
        with contextlib.suppress(TimeoutError):  # what is left then ends with this process
            client.close(SECONDS_TO_CLOSE)
            cluster.close(SECONDS_TO_CLOSE)


atexit.register(_close_local)


@contextlib.contextmanager
def _set_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that processes inherit which are started here, now or in place of a dead one."""
    before = {name: os.environ[name] for name in values if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _connected(scheduler: str, on_cpu: bool = True) -> Iterator:
    """A client of a cluster that is there."""
    import dask
    from distributed import Client

    with dask.config.set(SETTINGS):
        try:
            client = Client(scheduler, timeout=SECONDS_TO_CONNECT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise GengapError(
                f"no Dask scheduler answers at {scheduler!r} ({error}); give the address that it"
                " printed, such as tcp://127.0.0.1:8786"
            ) from error
        with client:
            _check_gpus(client, on_cpu)
            yield client


def _check_gpus(client, on_cpu: bool) -> None:
    # Where there is no worker yet, a batch system may still start some.
    workers = _workers(client).values()
    if not on_cpu and workers and not any(GPU in worker["resources"] for worker in workers):
        raise GengapError(
            f"none of the {len(workers)} workers offers a GPU; start them with --resources {GPU}=1,"
            " or leave out --device"
        )


def _submitted(client, function, places, start, ahead, on_cpu):
    """Each place and result; the cluster is given at most `ahead` items at once."""
    from distributed import KilledWorker, as_completed
    from distributed.scheduler import NoWorkerError

    run, work = uuid4().hex, cloudpickle.dumps((function, start))
    resources = None if on_cpu else {GPU: 1}
    waiting: dict[int, int] = {}  # by place, the bytes of its item
    running = as_completed(loop=client.loop)

    def fill():
        while len(waiting) < ahead and (
            sum(waiting.values()) < BYTES_AHEAD or len(waiting) < len(_workers(client))
        ):
            if (following := next(places, None)) is None:
                return
            place, item = following[0], cloudpickle.dumps(following[1])
            waiting[place], key = len(item), f"gengap-{run}-{place}"
            # retries: of what a worker cannot even begin; what the function raises is its result.
            options = {"key": key, "retries": 1, "resources": resources}
            running.add(client.submit(_work, run, work, place, item, **options))

    fill()
    for future in running:
        try:
            place, found, error = future.result()
        except KilledWorker as death:
            raise GengapError(
                "a worker process died twice on the same task, perhaps for lack of memory; what is"
                " finished is kept: run the same command again, with fewer --workers if need be"
            ) from death
        except NoWorkerError as none:
            raise GengapError(
                f"no worker process has been left for {SECONDS_WITHOUT_WORKERS} seconds; what is"
                " finished is kept: run the same command again"
            ) from none
        yield from ((place, result) for result in found)
        if error is not None:
            raise error
        del waiting[place]
        fill()


def _workers(client) -> dict[str, dict]:
    return client.scheduler_info(n_workers=-1)["workers"]


_HELD: dict[str, tuple[Function, object]] = {}  # by run, what a process holds between items


def _work(run: str, work: bytes, place: int, item: bytes) -> tuple[int, list, Exception | None]:
    """In a worker: an item's place, its results, and what ended them early."""
    found = []
    if run not in _HELD:
        torch.set_num_threads(1)
        threadpool_limits(1)
        function, start = cloudpickle.loads(work)
        _HELD.clear()
    try:
        if run not in _HELD:
            _HELD[run] = function, start()
        function, held = _HELD[run]
        for result in function(held, cloudpickle.loads(item)):
            found.append(result)  # noqa: PERF402  what is there when it raises counts
    except Exception as error:
        error.add_note(f"in a worker:\n{traceback.format_exc()}")
        return place, found, error
    return place, found, None
