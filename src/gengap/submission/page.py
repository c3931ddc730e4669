"""The page of `gengap score --html`: one file, which asks nothing of a network."""

import io
from html import escape

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from pandas import DataFrame

from gengap.book.figures import COLOURS
from gengap.evaluation.judgement import BASELINE, BASELINES, CRITERIA

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 46rem; padding: 0 1rem; }
svg { height: auto; max-width: 100%; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; }
th, td { border-bottom: 1px solid #ddd; padding: 0.2rem 0.5rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
tr.own { background: #d8e8f4; font-weight: bold; }
summary { cursor: pointer; margin-top: 0.7rem; }
"""
SVG_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # without them, no addresses


def page(name: str, scores: DataFrame, places: DataFrame, reasons: DataFrame) -> str:
    """HTML of a measure's place among all others.

    scores: of `gengap.submission.standing.scored_beside_all`; places: of `standing`; reasons: of `reasons`.
    """
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(name)}: its place</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(name)}</h1>",
        "<p>Its scores beside those of the measures that the tables hold, on the same networks.",
        "A measure claims to be larger where the gap (training minus test accuracy) is larger;",
        "of a sign error less is better, of every other score more. Of a ranking with many",
        "measures the best are partly lucky: read the intervals. Adjusted p-values are of all",
        "measures of a ranking (false discovery rate).</p>",
        _svg(strip_chart(name, scores)),
        "<h2>Its place</h2>",
        _table(place_texts(places)),
        *(_ranking(name, keys, group) for keys, group in _groups(scores)),
    ]
    if len(reasons):
        parts += ["<h2>Models without a value</h2>", _table(reasons)]
    return "\n".join([*parts, "</body></html>\n"])


def place_texts(places: DataFrame) -> DataFrame:
    """The rows of `standing` as they are shown: numbers as text, what belongs together joined."""
    rows = []
    for place in places.itertuples():
        some, every = f"{place.models:g}", f"{place.family_models:g}"
        row = {
            "collection": place.collection,
            "family": place.family,
            "models": some if some == every else f"{some} of {every}",
            "score": place.score,
        }
        if pd.isna(place.value):
            rows.append(row | {"value": f"- ({place.note})"})
            continue
        rows.append(
            row
            | {
                "value": _number(place.value),
                "95 % interval": f"{_number(place.low)} to {_number(place.high)}",
                "p": _number(place.p_value),
                "rank": f"{place.rank} of {place.measures}",
                "best other": f"{place.best} {_number(place.best_value)}".strip(),
                BASELINE: _number(place.baseline),
            }
        )
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
            shown = scores[
                (scores["score"] == kind)
                & (scores["collection"] == collection)
                & (scores["family"] == family)
            ]
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
        axes.set_yticks(range(len(families)), [family for _, family in reversed(families)])
        axes.set_xlabel(kind.replace("_", " "))
        axes.margins(y=0.5 / len(families))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[:3], labels[:3], loc="outside upper left", frameon=False)
    return figure


def _groups(scores: DataFrame):
    return scores.groupby(["collection", "family", "score"], sort=False)


def _ranking(name: str, keys: tuple[str, str, str], group: DataFrame) -> str:
    collection, family, score = map(escape, keys)
    best_first = CRITERIA[keys[-1]].better < 0
    ordered = group.dropna(subset="value").sort_values("value", ascending=best_first)
    shown = ordered[["measure", "value", "low", "high", "p_adjusted", "models"]]
    shown = shown.assign(**{each: shown[each].map(_number) for each in shown.columns[1:-1]})
    body = _table(shown)
    marked = f"<tr>\n      <td>{escape(name)}</td>"
    body = body.replace(marked, marked.replace("<tr>", '<tr class="own">'))
    return f"<details><summary>{collection}, {family}: {score}</summary>{body}</details>"


def _number(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"


def _table(rows: DataFrame) -> str:
    return f'<div class="wide">{rows.to_html(index=False, border=0)}</div>'


def _svg(figure: Figure) -> str:
    drawn = io.StringIO()
    # Text stays text: the page's own font draws it, at a fraction of the size of outlines.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gengap"}):
        figure.savefig(drawn, format="svg", metadata=SVG_METADATA)
    text = drawn.getvalue()
    return text[text.index("<svg") :]
