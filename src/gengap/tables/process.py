"""The state of this process that a measure may change, and that the next one finds as it was."""

import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

import numpy as np
import torch
from torch import nn


class Process:
    """Whether something within `seeded_process` changed what it puts back."""

    changed = False


@contextmanager
def seeded_process(process: Process) -> Iterator[None]:
    """Within it, all random generators are seeded with 0; after it, the process is as before.

    Put back are the generators of Python, NumPy and PyTorch; PyTorch's default type and device,
    grad mode, deterministic mode, precision and number of threads; NumPy's handling of errors,
    filters of warnings, the working directory and environment; and functions and methods of PyTorch
    and NumPy that have been replaced since the first time.
    """
    before = [read() for read, _ in SETTINGS]
    functions = _functions()
    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings(), np.errstate():
        try:
            random.seed(0)
            np.random.seed(0)
            torch.manual_seed(0)
            yield
        finally:
            for (owner, name), function in functions.items():
                now = vars(owner).get(name)
                if _wrapped_by_pytorch(now, function):
                    functions[owner, name] = now
                elif now is not function:
                    process.changed = True
                    setattr(owner, name, function)
            for value, (read, put_back) in zip(before, SETTINGS, strict=True):
                if read() != value:
                    process.changed = True
                    put_back(value)
            random.setstate(states[0])
            np.random.set_state(states[1])


def _folder() -> str:
    """The working directory; empty where it has been deleted."""
    with suppress(FileNotFoundError):
        return os.getcwd()
    return ""


def _set_folder(folder: str) -> None:
    if folder:
        os.chdir(folder)


def _set_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


def _set_variables(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


SETTINGS: list[tuple[Callable, Callable]] = [  # what reads one, and what puts it back
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, _set_device),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (np.geterr, lambda errors: np.seterr(**errors)),
    (_folder, _set_folder),
    (os.environ.copy, _set_variables),
]


@cache  # as they are when the first measure is called
def _functions() -> dict[tuple[object, str], object]:
    """Owner and name -> function, of what a measure may have replaced."""
    layers = [kind for kind in vars(nn).values() if isinstance(kind, type)]
    owners = [torch, torch.linalg, nn.functional, torch.Tensor, np, *dict.fromkeys(layers)]
    return {
        (owner, name): value
        for owner in owners
        for name, value in vars(owner).items()
        if callable(value) and not name.startswith("__")
    }


def _wrapped_by_pytorch(now: object, function: object) -> bool:
    """Whether PyTorch itself has replaced a function, as its compiler does on first import.

    It knows the new one by its id. Put back, and then freed, it would leave that id to some other
    function, which PyTorch would take for the one of its table: forward-mode derivatives then fail.
    """
    where = getattr(now, "__globals__", {}).get("__name__")
    return getattr(now, "__wrapped__", None) is function and where == "torch._compile"
