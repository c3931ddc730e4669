"""Anybody's measure, computed in processes of its own: it may crash, hang or be killed there.

The parent imports nothing of the measure's file and unpickles nothing that comes back: a worker
answers in JSON, and says which task it answers, so that nothing that it does late, or twice,
becomes the value of another. PyTorch is imported in the worker alone, after it has left the
terminal's process group, so that Ctrl-C ends the parent, which ends its workers.

No library that is well kept does this. Pebble stops a task after a time, but ends its process
alone, not what that has started, and the parent unpickles what comes back, which runs what a
measure wrote there. Loky unpickles too, knows no time limit for a task, and loses what its other
workers are at when one dies. Neither tells Linux to end its workers first where memory runs out.
"""

import contextlib
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from gengap.errors import GengapError

LONGEST = 100_000  # bytes of a message
SECONDS_TO_DIE = 5  # that a process which has closed its pipe gets before it is killed


@dataclass(frozen=True)
class Job:
    """What a worker must know: the file of a measure, and the collections it is computed on."""

    file: str
    collections: tuple[tuple[str, str], ...]  # where its class is, as in COLLECTIONS, and its root
    device: str
    threads: int  # of PyTorch, in each worker


Task = tuple[int, str]  # a model: the place of its collection in the job, and its id


def computed(
    job: Job, tasks: Iterable[Task], *, limit: float, workers: int
) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Each model as soon as it is done, with a row: measure, value, seconds and note.

    The value is finite, or None with a note that says why: what the measure raised or returned,
    how its process died, or that there was none after `limit` seconds (for one model with loading
    it, and for the import of the file). A process that died or was stopped is replaced.

    Raises: GengapError if the file cannot be imported or holds no measure.
    """
    waiting = deque(tasks)
    pool = [_Worker(job, limit) for _ in range(min(workers, len(waiting)))]
    name = None
    try:
        while pool:
            ready = wait([worker.pipe for worker in pool], _seconds_left(pool))
            for worker in [*pool]:
                message = worker.heard(worker.pipe in ready)
                if message is None:
                    continue
                name = message.get("measure", name)
                if "note" in message:
                    row = {part: message[part] for part in ("value", "seconds", "note")}
                    yield tuple(message["task"]), {"measure": name, **row}
                if worker.dead or not waiting:
                    worker.kill()
                    pool.remove(worker)
                else:
                    worker.give(waiting.popleft())
                if worker.dead and waiting:
                    pool.append(_Worker(job, limit))
    finally:
        for worker in pool:
            worker.kill()


class _Worker:
    """A process, and what the parent knows of it."""

    def __init__(self, job: Job, limit: float):
        context = multiprocessing.get_context("spawn")
        self.file, self.limit = job.file, limit
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, job))
        self.process.start()
        theirs.close()  # or its end would not be seen here
        self.task: Task | None = None  # None until the file is imported
        self.given_at = math.inf  # not before PyTorch is imported, which is not the measure's time
        self.dead = False

    @property
    def deadline(self) -> float:
        return self.given_at + self.limit

    def give(self, task: Task) -> None:
        self.task, self.given_at = task, time.monotonic()
        with contextlib.suppress(OSError):  # it died since: that is heard as the end of its pipe
            _send(self.pipe, task)

    def heard(self, ready: bool) -> dict[str, Any] | None:
        """Its next message, or one about its end; None while it is at work."""
        if not ready and not self.pipe.poll():  # it may have answered since
            overdue = time.monotonic() > self.deadline
            return self._ended(f"no value after {self.limit:g} seconds") if overdue else None
        try:
            message = _read(self.pipe.recv_bytes(LONGEST))
        except (EOFError, OSError):
            self.process.join(SECONDS_TO_DIE)
            return self._ended(f"its process ended ({_cause(self.process.exitcode)})")
        except (ValueError, RecursionError):
            return self._ended("it wrote to the connection by which its process answers")
        if "error" in message:
            raise GengapError(message["error"])
        if "started" in message:
            self.given_at = time.monotonic()
            return None
        # What answers another task is late, or a second answer: the process was forked.
        return None if "task" in message and tuple(message["task"]) != self.task else message

    def _ended(self, note: str) -> dict[str, Any]:
        self.dead = True
        if self.task is None:
            raise GengapError(f"{self.file} cannot be imported: {note}")
        seconds = time.monotonic() - self.given_at
        return {"task": self.task, "value": None, "seconds": seconds, "note": note}

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # With the processes that it started.
            os.killpg(cast(int, self.process.pid), signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _seconds_left(pool: list[_Worker]) -> float | None:
    nearest = min(worker.deadline for worker in pool)
    return None if nearest == math.inf else max(0.0, nearest - time.monotonic())


def _cause(exit_code: int | None) -> str:
    if exit_code is None:
        return "it closed its connection"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    names = {known.value: known.name for known in signal.Signals}
    name = names.get(-exit_code, f"signal {-exit_code}")  # those for real time have no name
    return f"{name}, perhaps for lack of memory" if name == "SIGKILL" else name


def _work(pipe: Connection, job: Job) -> None:
    """The process: import the measure, then answer each model with a row."""
    os.setsid()  # its own group: away from Ctrl-C, and killed with all that it starts
    _end_with_parent()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # where memory runs out, Linux ends this process before any other
    sys.stdout.flush()
    os.dup2(2, 1)  # what a measure prints is no part of the command's own output

    import torch

    from gengap.submission.measure_file import opened, own_measure, row_of

    torch.set_num_threads(job.threads)
    collections = opened(job.collections, job.device)
    _send(pipe, {"started": True})
    try:
        name, function = own_measure(job.file)
    except GengapError as error:
        _send(pipe, {"error": str(error)})
        return
    _send(pipe, {"measure": name})
    with contextlib.suppress(EOFError):
        while True:
            task = json.loads(pipe.recv_bytes())
            row = row_of(function, collections[task[0]], task[1], job.file)
            _send(pipe, {"task": task, **row})


def _read(answer: bytes) -> dict[str, Any]:
    """A worker's message; ValueError for what it does not send, which a measure has written."""
    message = json.loads(answer)
    kinds = {"task": list, "note": str, "measure": str, "error": str, "started": bool}
    known = isinstance(message, dict) and message.keys() <= {*kinds, "value", "seconds"}
    if not known or not all(isinstance(message[k], kinds[k]) for k in kinds if k in message):
        raise ValueError("no message of a worker")
    row = {"task", "value", "seconds", "note"}
    numbers = [message.get("seconds", 0.0), message.get("value") or 0.0]
    finite = all(type(n) is float and math.isfinite(n) for n in numbers)
    if not finite or row & message.keys() not in (set(), row):
        raise ValueError("no row of a worker")
    return message


def _send(pipe: Connection, message: dict[str, Any] | Task) -> None:
    pipe.send_bytes(json.dumps(message).encode())


def _end_with_parent() -> None:
    """End this process, with all that it starts, when its parent ends, whatever it is at."""
    import fcntl  # not on every system on which this module is imported

    parent = cast(Any, multiprocessing.parent_process()).sentinel  # a pipe, which hangs up then
    if hasattr(fcntl, "F_SETSIG"):  # by Linux: no thread of ours runs while C code has the GIL
        fcntl.fcntl(parent, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(parent, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(parent, fcntl.F_SETFL, fcntl.fcntl(parent, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_killed_after, args=(parent,), daemon=True).start()


def _killed_after(parent: int) -> None:
    wait([parent])
    os.killpg(0, signal.SIGKILL)
