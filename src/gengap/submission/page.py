"""The page of `gengap score --html`: one file, which asks nothing of a network."""

import io
from collections.abc import Iterator

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from pandas import DataFrame

from gengap.book.figures.style import COLOURS, words
from gengap.book.templates import filled
from gengap.evaluation.baselines import BASELINE, BASELINES
from gengap.evaluation.scores import CRITERIA
from gengap.submission.standing import KEYS

SVG_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # without them, no addresses


def page(name: str, scores: DataFrame, places: DataFrame, reasons: DataFrame) -> str:
    """HTML of a measure's place among all others.

    scores: of `gengap.submission.standing.scored_beside_all`; places: of `standing`; reasons: of
    `reasons`.
    """
    return filled(
        "submission/page.html",
        name=name,
        chart=_svg(strip_chart(name, scores)) if scores["value"].notna().any() else "",
        places=place_texts(places),
        rankings=_rankings(scores),
        reasons=reasons,
    )


def place_texts(places: DataFrame) -> DataFrame:
    """The rows of `standing` as they are shown: numbers as text, what belongs together joined."""
    rows = []
    for place in places.itertuples():
        some, every = f"{place.models:g}", f"{place.family_models:g}"
        row = {
            "collection": place.collection,
            "family": place.family,
            "models": some if some == every else f"{some} of {every}",
            "reliability": _number(place.reliability),
            "score": place.score,
        }
        if pd.isna(place.value):
            row["value"] = f"- ({place.note})"
        else:
            row |= {
                "value": _number(place.value),
                "95 % interval": f"{_number(place.low)} to {_number(place.high)}",
                "p": _number(place.p_value),
                "rank": f"{place.rank} of {place.measures}",
                "best other": f"{place.best} {_number(place.best_value)}".strip(),
                BASELINE: _number(place.baseline),
            }
        rows.append(row)
    return DataFrame(rows).fillna("")


def strip_chart(name: str, scores: DataFrame) -> Figure:
    """All measures' scores as dots in a row per family, a panel per score; one is marked."""
    scores = scores.dropna(subset="value")
    kinds = list(scores["score"].unique())
    families = list(dict.fromkeys(zip(scores["collection"], scores["family"], strict=True)))
    height = 0.8 + len(kinds) * (0.6 + 0.32 * len(families))  # inches; the first for the legend
    figure = Figure(figsize=(4.8, height), layout="constrained")
    for axes, kind in zip(figure.subplots(len(kinds), squeeze=False)[:, 0], kinds, strict=True):
        for height, (collection, family) in enumerate(reversed(families)):
            shown = scores[(scores[KEYS] == [collection, family, kind]).all(axis=1)]
            own, baseline = shown["measure"] == name, shown["measure"] == BASELINE
            for chosen, colour, marker, label in (
                (~own & ~shown["measure"].isin(BASELINES), "#999999", "|", "other measures"),
                (baseline, COLOURS[1], "D", BASELINE),
                (own, COLOURS[0], "o", name),
            ):
                values = shown.loc[chosen, "value"]
                axes.scatter(values, [height] * len(values), c=colour, marker=marker, label=label)
            ends = shown.loc[own, ["low", "high"]].to_numpy()
            axes.hlines([height] * len(ends), ends[:, 0], ends[:, 1], colors=COLOURS[0])
        names = [family.replace("$", r"\$") for _, family in reversed(families)]  # no formula
        axes.set_yticks(range(len(families)), names)
        axes.set_xlabel(words(kind))
        axes.margins(y=0.5 / len(families))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[:3], labels[:3], loc="outside upper left", frameon=False)
    return figure


def _rankings(scores: DataFrame) -> Iterator[tuple[str, DataFrame]]:
    """Of each collection, family and score a title, and the measures with a value, best first."""
    scores = scores.dropna(subset="value")
    for (collection, family, score), group in scores.groupby(KEYS, sort=False):
        ordered = group.sort_values("value", ascending=CRITERIA[score].better < 0)
        shown = ordered[["measure", "value", "low", "high", "p_adjusted", "models"]]
        numbers = {each: shown[each].map(_number) for each in shown.columns[1:-1]}
        yield f"{collection}, {family}: {score}", shown.assign(**numbers)


def _number(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"


def _svg(figure: Figure) -> str:
    drawn = io.StringIO()
    # Text stays text: the page's own font draws it, at a fraction of the size of outlines.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gengap"}):
        figure.savefig(drawn, format="svg", metadata=SVG_METADATA)
    text = drawn.getvalue()
    return text[text.index("<svg") :]
