"""What a kept row belongs to: which model, which weights, and which code computed it.

Three texts of 16 hex digits say so beside the names of collection, model and measure: `record`, of
the model's index row; `weights`, of the content of its files; `source`, of the function's code and
of all code of this package that it calls. A row of which one differs now is stale.
"""

import ast
import hashlib
import inspect
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from pkgutil import resolve_name
from types import FunctionType, ModuleType
from typing import Any

import pandas as pd
from pandas import DataFrame, Series

from gengap.collection import Collection

VERSIONS = ["record", "weights", "source"]
PLAIN = (bool, int, float, complex, str, bytes, type(None))


@dataclass(frozen=True)
class Versions:
    """What rows of a collection must be of, to be current."""

    models: DataFrame  # by model_id: record, and weights ("" outside the selection)
    sources: dict[str, str]  # by measure; "" where Python does not know the code

    def of(self, model_id: str, measure: str) -> dict[str, str]:
        """The version columns of a row that is computed now."""
        return {**self.models.loc[model_id], "source": self.sources[measure]}

    def are_current(self, rows: DataFrame) -> Series:
        """Which rows, with the columns model_id, measure and VERSIONS, are not stale.

        Code that is not known now, of a measure that is not registered, has not changed; nor have
        the weights of models outside the selection, whose files are not read for it.
        """
        now = self.models.reindex(rows["model_id"]).set_axis(rows.index)
        source = rows["measure"].map(lambda name: self.sources.get(name, ""))
        return (
            (rows["record"] == now["record"])
            & ((now["weights"] == "") | (rows["weights"] == now["weights"]))
            & ((source == "") | (rows["source"] == source))
        )


def versions_now(collection: Collection, sources: dict[str, str]) -> Versions:
    """The versions of a collection's models, and of these measures."""
    models = DataFrame({"record": record_hashes(collection.whole.index())})
    models["weights"] = weight_hashes(collection).reindex(models.index, fill_value="")
    return Versions(models, sources)


def record_hashes(index: DataFrame) -> Series:
    """16 hex digits of each index row, by model id: what a model is and how it performed.

    Columns that a family leaves empty do not count, so that another family beside it changes
    nothing, but for columns of whole numbers or truth values that the other family leaves empty.
    """
    # In float32: machines may differ in the last bit of a float64 read from decimal digits.
    rounded = index.astype(dict.fromkeys(index.select_dtypes("float64"), "float32"))
    parts = [rows.dropna(axis=1, how="all") for _, rows in rounded.groupby("family", sort=False)]
    hashes = pd.concat([pd.util.hash_pandas_object(rows, index=False) for rows in parts])
    return Series([f"{value:016x}" for value in hashes.sort_index()], index=index["model_id"])


# Weights


def weight_hashes(collection: Collection) -> Series:
    """16 hex digits of each model's files, by model id: of their names and content."""
    hashes, known = {}, {}  # by name: paths in zip files differ though they are the same
    for record in collection.index().to_dict("records"):
        places = collection.weight_files(record)
        names = tuple(map(str, places))
        if names not in known:
            known[names] = _hash_of_files(places)
        hashes[record["model_id"]] = known[names]
    return Series(hashes, dtype=str)


def _hash_of_files(places: tuple[Path | zipfile.Path, ...]) -> str:
    files = [file for place in places for file in _files_in(place)]
    return digest("\n".join(f"{file.name} {_content_hash(file)}" for file in files))


def _files_in(place: Path | zipfile.Path) -> Iterator[Path | zipfile.Path]:
    """The file itself, or all files in a folder, however deep; nothing where there is neither."""
    if place.is_file():
        yield place
    elif place.is_dir():
        held: Iterator[Path | zipfile.Path] = place.iterdir()
        for inner in sorted(held, key=lambda inner: inner.name):
            yield from _files_in(inner)


def _content_hash(file: Path | zipfile.Path) -> str:
    if isinstance(file, zipfile.Path):
        entry = file.root.getinfo(file.at)  # its checksum is at hand: nothing is unpacked
        return f"{entry.CRC:08x}-{entry.file_size}"
    stat = file.stat()
    return _hash_of_version(file, stat.st_size, stat.st_mtime_ns)


@cache  # a matrix of thousands of networks is read once, and again when it was written
def _hash_of_version(file: Path, size: int, modified: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# Code


def source_hash(function: Callable) -> str:
    """16 hex digits of a function's code and of what it calls, however deep, in this package.

    Followed are names, and attributes of modules, that stand for functions and classes of gengap or
    of the function's own package or file; constants of those modules count with their value, and
    dictionaries whose names are in capitals with all that they hold, as fields of dataclasses do.
    What is plain in other lists, sets and dictionaries does not count, for code may fill them; nor
    do arrays.
    Comments, layout, docstrings and the function's decorators do not count, nor does in which
    module anything stands. What is called through an object of another kind is not seen: how a
    collection reads its networks, for one.

    Empty where Python does not know the source (typed at a prompt): such a value is never stale.
    """
    function = inspect.unwrap(function)
    if not _definition(function)[0]:
        return ""
    own = (function.__module__ or "").partition(".")[0]
    reached: dict[object, str] = {}
    _reach(function, "", {"gengap", own}, reached)
    return digest("\n".join(sorted(set(reached.values()))))


def _reach(value: Any, name: str, packages: set[str], reached: dict[object, str]) -> None:
    """Add the text of a value, and of all that its code names, under its identity in memory."""
    value = inspect.unwrap(value) if callable(value) else value
    if isinstance(value, PLAIN):
        name = name.rpartition(".")[2].rpartition(":")[2]
        if not name.startswith("__"):  # __file__ says where the code lies, which does not count
            reached[name, repr(value)] = f"{name} = {value!r}"
    elif id(value) not in reached:
        items = [(f"{name}[{at}]", item) for at, item in _items(value, name)]
        reached[id(value)] = ""
        if _is_of(value, packages):
            reached[id(value)], names = _definition(value)
            scope = _scope(value)
            items = [(chain, found) for chain in names for found in _resolved(chain, scope)]
        for called, item in items:
            _reach(item, called, packages, reached)


def _items(value: object, name: str) -> list[tuple[object, object]]:
    """What a container holds that is code or constant: plain values in a list are a state."""
    if isinstance(value, tuple):
        return list(enumerate(value))
    if isinstance(value, partial):
        # No container is made here: its id would be another's once it is gone.
        return [("func", value.func), ("args", value.args), *value.keywords.items()]
    if isinstance(value, frozenset):
        return list(enumerate(sorted(value, key=repr)))
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if not isinstance(value, (list, set, dict)):
        return []
    held = value.items() if isinstance(value, dict) else enumerate(value)
    last = name.rpartition(".")[2].rpartition(":")[2]
    constant = isinstance(value, dict) and last.isupper() and not last.startswith("_")
    return [(place, item) for place, item in held if constant or not isinstance(item, PLAIN)]


def _is_of(value: object, packages: set[str]) -> bool:
    known = isinstance(value, (FunctionType, type))
    return known and (value.__module__ or "").partition(".")[0] in packages


@cache
def _definition(thing: Callable) -> tuple[str, tuple[str, ...]]:
    """The code of a function or class in one form, and the names in it; empty if not known."""
    try:
        definition: Any = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return "", ()
    definition.decorator_list = []
    for node in ast.walk(definition):
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    chains = [chain for node in ast.walk(definition) for chain in _chains(node)]
    return _text(definition), tuple(dict.fromkeys(chains))


def _text(node: object) -> str:
    """A syntax tree in one line; without what is empty, in which versions of Python differ."""
    if isinstance(node, list):
        return f"[{', '.join(map(_text, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
    return f"{type(node).__name__}({', '.join(f'{name}={_text(v)}' for name, v in fields)})"


def _chains(node: ast.AST) -> Iterator[str]:
    """What a node names: `name`, `module.name`, and `module:name` where it is imported."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        for inner in _chains(node.value):
            yield f"{inner}.{node.attr}"
    elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gengap"):
        yield from (f"{node.module}:{alias.name}" for alias in node.names)


def _scope(thing: FunctionType | type) -> dict[str, object]:
    """The values of the names outside a function or class."""
    if isinstance(thing, type):
        return vars(inspect.getmodule(thing) or thing)
    cells = zip(thing.__code__.co_freevars, thing.__closure__ or ())
    return thing.__globals__ | {name: cell.cell_contents for name, cell in cells}


def _resolved(chain: str, scope: dict[str, object]) -> Iterator[object]:
    """The value that a chain of names stands for, if modules alone lead to it."""
    if ":" in chain:
        yield resolve_name(chain)
        return
    first, *rest = chain.split(".")
    value = scope.get(first)
    for name in rest:
        if not isinstance(value, ModuleType):
            return
        value = getattr(value, name, None)
    if first in scope and not isinstance(value, ModuleType):
        yield value
