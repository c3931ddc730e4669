"""The registry of measures: functions of one model that return one number.

Larger predicts a larger generalization gap; where a paper defines the opposite sign, the measure's
docstring says so. On a GPU (float32, TF32 off) a measure agrees with its value on the CPU to a
relative 1e-4.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gengap.errors import GengapError, nearest
from gengap.model import Model

Measure = Callable[[Model], float]

MEASURES: dict[str, Measure] = {}

ALL = math.inf  # images of the training sample


@dataclass(frozen=True)
class Work:
    """What a measure asks of a network at most, and in a word how many images that are."""

    # Images that pass forward, each as often as it does. ALL: the whole sample, whose logits a
    # model keeps for all measures (and one image more for a norm of paths).
    images: float = 0
    per_class: int = 0  # and as many for each class, if the sample is in random order
    differentiates: bool = False

    def __str__(self) -> str:
        fixed = "all" if self.images == ALL else f"{self.images:,}" if self.images else ""
        shared = f"{self.per_class:,} a class" if self.per_class else ""
        return " + ".join(filter(None, [fixed, shared]))


WORK: dict[str, Work] = {}  # by measure; see `work_of`


def measure(function: Measure) -> Measure:
    """Register a function `(model, *, constant=default) -> float` under its own name.

    What a model lacks, the function raises as `NotAvailable(reason)`. A variant with another
    constant is another function with another name.

    Raises:
        GengapError: if the name is taken, or if the model is not the only argument needed.
    """
    name = function.__name__
    if name in MEASURES and not _is_typed_again(MEASURES[name], function):
        home = MEASURES[name].__module__
        raise GengapError(f"a measure {name!r} exists already (in {home}); choose another name")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise GengapError(
            f"measure {name!r} must be callable as {name}(model), with a default for every"
            f" constant ({error})"
        ) from None
    MEASURES[name] = function
    return function


def work(*, images: float = 0, per_class: int = 0, differentiates: bool = False) -> Callable:
    """Declare, below `@measure`, the `Work` of a function; without it, only weights are read.

    It is no part of the function's code, so that its values stay (see gengap.tables.identity).
    """

    def declared(function: Measure) -> Measure:
        WORK[function.__name__] = Work(images, per_class, differentiates)
        return function

    return declared


def work_of(name: str) -> Work:
    """What a measure declares; nothing of what reads only weights."""
    return WORK.get(name, Work())


def chosen_measures(names: str | Iterable[str] | None = None) -> dict[str, Measure]:
    """The registered measures of these names, or all; an unknown name is a GengapError."""
    names = [names] if isinstance(names, str) else list(MEASURES if names is None else names)
    for name in names:
        if name not in MEASURES:
            raise GengapError(f"no measure {name!r}; {nearest(str(name), MEASURES)}")
    return {name: MEASURES[name] for name in names}


def _is_typed_again(old: Measure, new: Measure) -> bool:
    # A notebook cell that defines a measure is run many times while the measure is being written.
    return old.__module__ == new.__module__ == "__main__"


from gengap.measures import (  # noqa: E402, F401  (they register themselves above)
    adaptive_sharpness,
    augmented_margins,
    capacity,
    convolution_spectra,
    curvature,
    flatness,
    gradient_noise,
    margins,
    norm_products,
    norms,
    power_law,
    representations,
    sensitivity,
    sharpness,
    tangent_kernel_alignment,
    training_speed,
    transport,
)
