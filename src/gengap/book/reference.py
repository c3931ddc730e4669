"""Tables of the pages of reference: what measures need and cost, and what collections hold.

The texts of these pages are docstrings, which Sphinx reads; see `gengap.book.docstrings`.
"""

import dataclasses
import functools
import re
from collections.abc import Callable

import pandas as pd
from pandas import DataFrame, Series

from gengap import folders
from gengap.collection import Collection, last_epoch
from gengap.errors import NotAvailable
from gengap.evaluation.reliability import reliability_table
from gengap.measures import MEASURES, Measure, work_of
from gengap.model import Model, RecordedModel

DEFINES = re.compile(r"\.\. auto(?:module|function):: (gengap\.[\w.]+)")
MANY = 8  # of more numbers the ends are shown, and how many there are


def needs(measure: Measure, model: Model) -> str:
    """What a measure takes of a model: weights, initial weights, training images or losses.

    It is tried without images and losses of earlier epochs, then without initial weights too.
    model: one that has images and initial weights.
    """
    asked = []

    def without(what: str):
        def refused():
            asked.append(what)
            raise NotAvailable(f"tried without {what}")

        return refused

    refused = without("training images"), without("losses of earlier epochs")
    bare = RecordedModel(model.network, model.record, model.initial_weights, *refused)
    lacking = _lacks(measure, bare)
    if asked:
        return asked[0]
    weights_alone = dataclasses.replace(bare, initial_weights=None)
    return "weights" if _lacks(measure, weights_alone) == lacking else "initial weights"


def overview(model: Model, costs: DataFrame, errors: DataFrame) -> DataFrame:
    """A row for each registered measure: group, needs (see there), declared work, draws, seconds.

    model: as for `needs`. costs: of `gengap.studies.pgdl.measure_costs`; a measure's seconds are
    the most that it took there. errors: `sampling_errors`; how well two draws agree is from there.
    """
    needed = {
        name: (function.__module__.rpartition(".")[2].replace("_", " "), needs(function, model))
        for name, function in MEASURES.items()
        if function.__module__.startswith("gengap.measures.")
    }
    table = DataFrame.from_dict(needed, orient="index", columns=["group", "needs"])
    seconds = costs.groupby("measure")["seconds"].max()
    table = table.rename_axis("measure").join(declared_work())
    agreement = errors["rank_correlation"].rename("draws agree")
    return table.join(agreement).assign(seconds=seconds)


def declared_work() -> DataFrame:
    """By measure, how many images pass the network at most, and whether it differentiates."""
    told = [(str(work_of(name)), "yes" * work_of(name).differentiates) for name in MEASURES]
    return DataFrame(told, index=[*MEASURES], columns=["images at most", "derivatives"])


def sampling_errors() -> DataFrame:
    """By measure that draws images, how much the values of networks depend on which these are.

    Columns networks, draws, rank_correlation (of the networks by two draws), spread (between draws
    over that between networks) and others, as `tests/benchmarks/sampling_error.py` wrote them.
    """
    return pd.read_csv(folders.data() / "tables" / "sampling_error.csv", index_col="measure")


def linked(table: DataFrame) -> str:
    """HTML of a table by measure, each name a link to its definition, for a chapter's page."""
    links = {
        name: f'<a href="../{definition(MEASURES[name])}"><code>{name}</code></a>'
        for name in table.index
    }
    return table.rename(index=links).to_html(escape=False, index_names=False, na_rep="")


def definition(function: Callable) -> str:
    """Where a measure or a score is defined: page and place, from the folder of pages on."""
    path, pages = f"{function.__module__}.{function.__name__}", _defining_pages()
    return f"{pages.get(path) or pages[function.__module__]}.html#{path}"


@functools.cache
def _defining_pages() -> dict[str, str]:
    """Module or function -> the page that shows its docstrings."""
    folder = folders.repository() / "book"
    pages = {page.stem: page for page in folder.glob("*.md")}
    pages["chapters/08-measures"] = folders.repository() / "notebooks" / "08-measures.ipynb"
    return {name: page for page, f in pages.items() for name in DEFINES.findall(f.read_text())}


def family_table(collection: Collection) -> DataFrame:
    """A row for each family: networks, epochs of the index, and how its networks performed.

    Accuracies and gap (train minus test) are the least and the largest of the last epoch;
    reliability is that of the gap.
    """
    index, last = collection.index(), last_epoch(collection.index())
    last["gap"] = last["train_accuracy"] - last["test_accuracy"]
    families = last.groupby("family", sort=False)
    epochs = index.groupby("family", sort=False)["epoch"].agg(values_in_words)
    table = DataFrame({"networks": families.size(), "epochs": epochs})
    for column in ("train_accuracy", "test_accuracy", "gap"):
        ends = families[column].agg(["min", "max"])
        table[column.replace("_", " ")] = [f"{a:.3f} to {b:.3f}" for a, b in ends.to_numpy()]
    known = reliability_table(last)["reliability"].map("{:.2f}".format)
    return table.assign(reliability=known.replace("nan", "not known"))


def hyperparameter_table(collection: Collection) -> DataFrame:
    """A row for each hyper-parameter of the index, a column for each family: its values."""
    families = collection.index().groupby("family", sort=False)
    columns = {name: rows.filter(regex="^hp_").apply(values_in_words) for name, rows in families}
    return DataFrame(columns).rename(lambda name: name.removeprefix("hp_"))


def values_in_words(values: Series) -> str:
    """The different values, numbers in order; of many the ends, and how many they are."""
    known = values.dropna().drop_duplicates()
    if pd.api.types.is_numeric_dtype(known):
        known = known.sort_values()
        if len(known) > MANY:
            return f"{known.iloc[0]:.3g} to {known.iloc[-1]:.3g} ({len(known)} values)"
    told = [f"{value:g}" if isinstance(value, float) else str(value) for value in known]
    return ", ".join(told) or "not given"


def _lacks(measure: Measure, model: Model) -> str:
    try:
        measure(model)
    except NotAvailable as missing:
        return str(missing)
    return ""
