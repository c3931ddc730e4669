"""The pages of reference, from docstrings and indexes: what they say cannot drift from the code.

Text is HTML, which a notebook shows with `IPython.display.HTML`: formulas in docstrings are plain
text, and none of their characters may be taken for markup.
"""

import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from html import escape
from types import ModuleType

import pandas as pd
from pandas import DataFrame, Series
from torch import Tensor

from gengap.collection import COLLECTIONS, Collection
from gengap.errors import NotAvailable
from gengap.evaluation.judgement import last_epoch
from gengap.measures import MEASURES, Measure
from gengap.model import Model

# Where a labelled part of a docstring begins: "Differs, besides what ... says:" is a label too.
LABEL = re.compile(r"(?:^|(?<=\. ))(?=(?:Source|Differs|Raises|Format|Example)\b[^.]*?: )")
MANY = 8  # of more numbers the ends are shown, and how many there are


def homes() -> dict[str, list[str]]:
    """The registered measures by the module of gengap.measures that defines them, by its name."""
    found: dict[str, list[str]] = {}
    for name, function in MEASURES.items():
        package, _, module = function.__module__.rpartition(".")
        if package == "gengap.measures":
            found.setdefault(module, []).append(name)
    return found


def measures_in(module: str) -> str:
    """HTML of what a module of gengap.measures says of itself, and of its measures, all of them.

    The functions that these texts refer to follow, for they are part of the definitions.
    """
    home = importlib.import_module(f"gengap.measures.{module}")
    measures = [MEASURES[name] for name in homes()[module]]
    others = referred_to([home, *measures])
    more = f"<p>These texts refer to:</p>{entries(others)}" if others else ""
    return about(home) + entries(measures) + more


def referred_to(things: Iterable[Callable | ModuleType]) -> list[Callable]:
    """The functions of gengap.measures that docstrings name, and those that theirs name.

    Measures are left out: they have entries of their own.
    """
    known, waiting, found = _functions(), list(things), {}
    while waiting:
        for name in re.findall(r"`(\w+)`", inspect.getdoc(waiting.pop(0)) or ""):
            if name in known and name not in MEASURES and name not in found:
                found[name] = known[name]
                waiting.append(known[name])
    return list(found.values())


def _functions() -> dict[str, Callable]:
    """All functions that modules of gengap.measures define, by name."""
    return {
        name: function
        for path, module in list(sys.modules.items())
        if path.startswith("gengap.measures.")
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == path
    }


def data_sheet(name: str) -> str:
    """HTML of what the code says of a collection: the module with its format, and its class."""
    collection = pkgutil.resolve_name(COLLECTIONS[name])
    return about(sys.modules[collection.__module__]) + about(collection)


def about(thing: ModuleType | type) -> str:
    """HTML of the docstring of a module or a class."""
    return _html(inspect.getdoc(thing))


def entries(functions: Iterable[Callable]) -> str:
    """HTML list of functions: name, constants with their defaults, docstring.

    What is registered as a measure can be linked to as #measure-<name>.
    """
    return f"<dl>{''.join(map(_entry, functions))}</dl>"


def needs(measure: Measure, model: Model) -> str:
    """What a measure takes of a model: weights, initial weights or training images.

    It is tried without images, and then without initial weights too. model: one that has all.
    """
    asked = []

    def no_images() -> tuple[Tensor, Tensor]:
        asked.append(True)
        raise NotAvailable("tried without images")

    without_images = dataclasses.replace(model, read_sample=no_images)
    lacking = _lacks(measure, without_images)
    if asked:
        return "training images"
    weights_alone = dataclasses.replace(without_images, initial_weights=None)
    return "weights" if _lacks(measure, weights_alone) == lacking else "initial weights"


def overview(model: Model, costs: DataFrame) -> DataFrame:
    """A row for each registered measure: group, needs (see there) and seconds.

    model: as for `needs`. costs: of `gengap.studies.pgdl.measure_costs`; a measure's seconds are the most
    that it took there.
    """
    rows = [
        (name, module.replace("_", " "), needs(MEASURES[name], model))
        for module, names in homes().items()
        for name in names
    ]
    table = DataFrame(rows, columns=["measure", "group", "needs"]).set_index("measure")
    return table.assign(seconds=costs.groupby("measure")["seconds"].max())


def linked(table: DataFrame) -> str:
    """HTML of a table by measure, each name a link to its entry on the same page."""
    return table.rename(index=_code).to_html(escape=False, index_names=False)


def family_table(collection: Collection) -> DataFrame:
    """A row for each family: networks, epochs of the index, and how its networks performed.

    Accuracies and gap (train minus test) are the least and the largest of the last epoch.
    """
    index, last = collection.index(), last_epoch(collection.index())
    last["gap"] = last["train_accuracy"] - last["test_accuracy"]
    families = last.groupby("family", sort=False)
    epochs = index.groupby("family", sort=False)["epoch"].agg(values_in_words)
    table = DataFrame({"networks": families.size(), "epochs": epochs})
    for column in ("train_accuracy", "test_accuracy", "gap"):
        ends = families[column].agg(["min", "max"])
        table[column.replace("_", " ")] = [f"{a:.3f} to {b:.3f}" for a, b in ends.to_numpy()]
    return table


def hyperparameter_table(collection: Collection) -> DataFrame:
    """A row for each hyper-parameter of the index, a column for each family: its values."""
    families = collection.index().groupby("family", sort=False)
    columns = {name: rows.filter(regex="^hp_").apply(values_in_words) for name, rows in families}
    return DataFrame(columns).rename(lambda name: name.removeprefix("hp_"))


def values_in_words(values: Series) -> str:
    """The different values, numbers in order; of many the ends, and how many they are."""
    known = values.dropna().drop_duplicates()
    if not pd.api.types.is_numeric_dtype(known):
        return ", ".join(map(str, known)) or "not given"
    known = known.sort_values()
    if known.empty:
        return "not given"
    if len(known) > MANY:
        return f"{known.iloc[0]:.3g} to {known.iloc[-1]:.3g} ({len(known)} values)"
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in known)


def _lacks(measure: Measure, model: Model) -> str:
    try:
        measure(model)
    except NotAvailable as missing:
        return str(missing)
    return ""


def _entry(function: Callable) -> str:
    name = function.__name__
    anchor = f' id="measure-{name}"' if MEASURES.get(name) is function else ""
    constants = inspect.signature(function).parameters.values()
    given = [f"{p.name} = {p.default}" for p in constants if p.default is not p.empty]
    said = f" with {', '.join(given)}" if given else ""
    term = f"<dt{anchor}><code>{name}</code>{escape(said)}</dt>"
    # Its own name in its text is another's: the function of a paper's code that is called alike.
    text = _html(inspect.getdoc(function)).replace(_code(name), f"<code>{name}</code>")
    return f"{term}<dd>{text}</dd>"


def _html(docstring: str) -> str:
    """Paragraphs and lists of a docstring; each label, as `Source:`, begins a paragraph."""
    return "".join(map(_block, re.split(r"\n\s*\n", docstring)))


def _block(text: str) -> str:
    text, *items = (" ".join(part.split()) for part in re.split(r"(?:^|\n)- ", text))
    said = "".join(f"<p>{_labelled(part.strip())}</p>" for part in LABEL.split(text) if part)
    listed = "".join(f"<li>{_inline(item)}</li>" for item in items)
    return said + (f"<ul>{listed}</ul>" if items else "")


def _labelled(text: str) -> str:
    label, colon, rest = text.partition(":") if LABEL.match(text) else ("", "", text)
    return f"<strong>{_inline(label + colon)}</strong>{_inline(rest)}" if label else _inline(rest)


def _inline(text: str) -> str:
    """Escaped; what is between backticks as code, and measures among it as links."""
    plain_and_code = re.split(r"`([^`]+)`", text)
    return "".join(
        _code(part) if place % 2 else _plain(part) for place, part in enumerate(plain_and_code)
    )


def _plain(text: str) -> str:
    """Escaped, and *words* emphasized; a product's stars stand alone or between letters."""
    return re.sub(r"(?<![\w*])\*(\w+)\*(?![\w*])", r"<em>\1</em>", escape(text))


def _code(text: str) -> str:
    code = f"<code>{escape(text)}</code>"
    return f'<a href="#measure-{text}">{code}</a>' if text in MEASURES else code
