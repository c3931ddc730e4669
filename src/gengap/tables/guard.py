"""One guarded call of a measure, the same for `gengap measure` and `gengap score`.

A measure is anybody's code: whatever it raises is an answer, and what it changes reaches no other.
"""

import dataclasses
import os
import reprlib
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gengap.collection import Collection
from gengap.errors import GengapError, NotAvailable, in_one_line
from gengap.model import Model
from gengap.tables.process import Process, seeded_process

FAILED = "failed: "  # how the reason begins of what is not merely lacking
LONGEST_NOTE = 200  # characters of what was raised
LOOKED_AT = 100_000  # numbers of a sample, at most twice as many


class Answer(NamedTuple):
    """What a measure returned, or why it has no value."""

    value: Any
    note: str = ""  # empty with a value
    failed: bool = False  # whether something went wrong; else the model lacks something

    @property
    def reason(self) -> str:
        """The note as it is kept."""
        return f"{FAILED}{self.note}" if self.failed else self.note


class Guard:
    """A model of a collection, for measures that are called on it one after the other.

    Each finds the model, the random generators (seeded with 0) and the process as the first one
    did. One that changes the network, its record or the training sample has no value, and the next
    gets the model loaded anew; so does the next after one that changed what `gengap.tables.process`
    watches, since what the model has computed meanwhile may be of that.
    """

    def __init__(self, collection: Collection, model_id: str):
        self._collection, self._model_id = collection, model_id
        self._model: Model | None = None

    def answer(
        self, function: Callable[[Model], object], read: Callable[[object], object], file: str
    ) -> Answer:
        """What `read` makes of the function's answer; a note names the line in the code's file."""
        own, process = os.getpid(), Process()
        try:
            model = self._loaded()  # before: what loading draws at random must not matter
            with seeded_process(process):
                found = Answer(read(function(model)))
        except KeyboardInterrupt:
            raise
        except NotAvailable as lacking:
            found = Answer(None, in_one_line(str(lacking)))
        except BaseException as error:  # SystemExit, and what libraries derive of it
            found = Answer(None, _what_stopped(error, file), failed=True)
        if os.getpid() != own:
            os._exit(0)  # the measure forked: its child has no task and no say
        change = self._change(self._model) if self._model else ""
        if change:
            found = Answer(None, change, failed=True)
        if change or process.changed:
            self._model = None
        return found

    def _loaded(self) -> Model:
        if self._model is None:
            model = self._collection.load(self._model_id)
            self._before = {
                name: tensor.detach().clone().requires_grad_(tensor.requires_grad)
                for name, tensor in _tensors(model.network).items()
            }
            self._modules, self._record = _modules(model.network), model.record.copy()
            self._read_sample = model.read_sample
            self._sample: list[float] | None = None  # as it was when first asked for
            self._model = dataclasses.replace(model, read_sample=self._recorded_sample)
        return self._model

    def _recorded_sample(self) -> tuple[Tensor, Tensor]:
        sample = self._read_sample()
        self._sample = _fingerprint(sample)
        return sample

    def _change(self, model: Model) -> str:
        """What has changed in model or sample, or an empty text."""
        if change := _change(model.network, self._before):
            return change
        if _modules(model.network) != self._modules:
            return "it changed the network's modules; let it work on a copy.deepcopy of the network"
        if not model.record.equals(self._record):
            return "it changed the model's record; let it work on record.copy()"
        if self._sample and _fingerprint(model.sample) != self._sample:
            self._collection.forget_samples()
            return "it changed the training sample, which all models of a family share"
        return ""


def number(value: object) -> float:
    """What a measure returned, a real number; GengapError where it is something else."""
    is_complex = "complex" in str(getattr(value, "dtype", ""))  # float() would drop a part of it
    if isinstance(value, str | bytes) or is_complex or not hasattr(value, "__float__"):
        raise GengapError(f"it returned no number but {reprlib.repr(value)}")
    return float(value)


def _modules(network: nn.Module) -> list[tuple]:
    """What a network's modules are, and what they hold beside tensors: settings and hooks."""
    return [
        (
            name,
            type(module),
            {key: value for key, value in vars(module).items() if _plain(value)},
            {key: len(value) for key, value in vars(module).items() if key.endswith("_hooks")},
        )
        for name, module in network.named_modules()
    ]


def _plain(value: object) -> bool:
    return isinstance(value, (bool, int, float, str, tuple)) or callable(value)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return dict([*network.named_parameters(), *network.named_buffers()])


def _change(network: nn.Module, before: dict[str, Tensor]) -> str:
    """What a measure has changed in the network, or an empty text."""
    after = _tensors(network)
    if after.keys() != before.keys() or not all(_same(after[n], before[n]) for n in before):
        return "it changed the network's weights; let it work on a copy.deepcopy of the network"
    if any(module.training for module in network.modules()):
        return "it left the network in training mode; end with network.eval()"
    if any(parameter.grad is not None for parameter in network.parameters()):
        return "it left gradients in the network; use torch.autograd.grad or network.zero_grad()"
    if any(after[n].requires_grad != before[n].requires_grad for n in before):
        return "it changed which weights require gradients; let it work on a copy.deepcopy"
    return ""


def _same(one: Tensor, other: Tensor) -> bool:
    if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
        return False
    one, other = one.detach(), other.detach()
    return torch.allclose(one.double(), other.double(), rtol=0, atol=0, equal_nan=True)


def _fingerprint(sample: tuple[Tensor, Tensor]) -> list[float]:
    # Versions count changes in place; sums see those through tensor.data, which are not counted.
    # Of a large sample not all numbers are looked at: after every measure that would take longer
    # than most measures.
    return [
        number
        for tensor in sample
        for number in (
            tensor._version,
            tensor.flatten()[:: 1 + tensor.numel() // LOOKED_AT].sum(dtype=torch.float64).item(),
            tensor.requires_grad,
        )
    ]


def _what_stopped(error: BaseException, file: str) -> str:
    """The error in one line, with the line of the file that it came from."""
    if isinstance(error, GengapError):  # a sentence of its own
        return in_one_line(str(error))
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    said = in_one_line(str(error))
    place = f" ({file.rpartition('/')[2]} line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {said}"[:LONGEST_NOTE] + place
