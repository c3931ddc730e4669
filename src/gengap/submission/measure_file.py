"""One attempt at anybody's measure: import its file, compute a model's value, say what went wrong.

What runs in a worker process; see gengap.submission.process.
"""

import importlib.util
import math
import pkgutil
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from torch import Tensor

from gengap.collection import Collection
from gengap.errors import GengapError
from gengap.measures import MEASURES, Measure
from gengap.model import BATCH, Model
from gengap.tables.guard import Guard, number


class Batches:
    """A model's training sample as `complexity` gets it: iterated any number of times.

    Each time it yields (inputs (B, C, H, W) float32, labels (B,) int64), B at most 250, on the
    network's device. It is no tf.data.Dataset, and the model beside it no Keras model: a
    competitor's code runs once its TensorFlow calls are replaced by PyTorch's.
    """

    def __init__(self, model: Model):
        self.model = model

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, labels = self.model.sample
        return zip(inputs.split(BATCH), labels.split(BATCH), strict=True)


def name_of_file(file: Path) -> str:
    """The name of what has none but its file's; GengapError if a measure is called so."""
    name = Path(file).stem
    if name in MEASURES:
        raise GengapError(f"a measure {name!r} exists already; rename the file {file}")
    return name


def import_file(file: Path) -> tuple[ModuleType, list[str]]:
    """Import a user's file: its module, and the names of the measures that it registers.

    Raises: GengapError that says where it stopped.
    """
    before = set(MEASURES)
    spec = importlib.util.spec_from_file_location(f"measures_from_{Path(file).stem}", file)
    if spec is None or spec.loader is None:
        raise GengapError(f"{file} is no Python file; give one that ends in .py")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except GengapError:
        raise
    except (Exception, SystemExit) as error:  # anybody's code: say where it stopped
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f", in {place.filename} line {place.lineno}"
        where = "" if isinstance(error, SyntaxError) else where  # it names the place itself
        raise GengapError(
            f"{file} cannot be imported ({type(error).__name__}: {error}{where})"
        ) from error
    return module, [name for name in MEASURES if name not in before]


def measures_in(file: Path) -> list[str]:
    """Import a user's file and name the measures that it registers; GengapError if none."""
    if names := import_file(file)[1]:
        return names
    raise GengapError(f"{file} registers no measure; write @gengap.measure above its function")


def own_measure(file: str) -> tuple[str, Measure]:
    """The one measure that a file holds, with its name.

    Raises: GengapError if the file cannot be imported, or holds none or several.
    """
    sys.path.append(str(Path(file).parent))  # what lies beside it may be imported, as by python
    module, names = import_file(Path(file))
    complexity = getattr(module, "complexity", None)
    if len(names) > 1:
        raise GengapError(f"{file} registers {len(names)} measures ({', '.join(names)}); leave one")
    if names:
        return names[0], MEASURES[names[0]]
    if callable(complexity):
        return name_of_file(Path(file)), lambda model: complexity(model.network, Batches(model))
    raise GengapError(
        f"{file} registers no measure; write @gengap.measure above its function, or name it"
        " complexity(model, dataset)"
    )


def opened(homes: Iterable[tuple[str, str]], device: str) -> list[Collection]:
    """Collections, each of a class, named as in COLLECTIONS, and a root."""
    return [pkgutil.resolve_name(home)(root, device) for home, root in homes]


def row_of(function: Measure, collection: Collection, model_id: str, file: str) -> dict:
    """value (None if there is none), seconds and note of a measure on one model."""
    start = time.perf_counter()
    answer = Guard(collection, model_id).answer(function, finite, file)
    lacking = answer.note if answer.failed else f"not available: {answer.note}"
    value, note = (None, lacking) if answer.note else answer.value
    return {"value": value, "seconds": time.perf_counter() - start, "note": note}


def finite(value: object) -> tuple[float | None, str]:
    """What a measure returned as a finite number, or None and a note on what it is instead."""
    try:
        found = number(value)
    except GengapError as none:
        return None, str(none)
    except OverflowError:  # an integer of hundreds of digits
        return None, "it returned a number that is too large"
    return (found, "") if math.isfinite(found) else (None, f"it returned {found}")
