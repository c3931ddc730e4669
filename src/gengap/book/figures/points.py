"""Figures of which each point is a network: a pointer on it tells which, how trained, how good.

They are charts of Vega-Lite. A notebook keeps one as an image, for paper and where there are no
scripts, beside its specification, which the book's pages draw: see `gengap.book.numbered`.
"""

from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from gengap.book.figures.style import COLOURS, name_of, words

VEGA_LITE = "application/vnd.vegalite.v6+json"
WIDE, HIGH = 190, 150  # pixels of a panel: two of them, with axes, are as wide as other figures
DIGITS = 4  # significant ones of what a chart keeps
TOLD = ("model_id", "family", "epoch", "train_accuracy", "test_accuracy")  # and the settings


def train_against_test(index: pd.DataFrame) -> alt.TopLevelMixin:
    """Test against training accuracy of each network, families by colour, with the diagonal."""
    names = index["family"].map(name_of)
    named = index.assign(hyper=pd.Categorical(names, names.unique()))  # coloured as elsewhere
    axes = {"train_accuracy": "training accuracy", "test_accuracy": "test accuracy"}
    return _chart([("all networks", named)], axes, diagonal=True)


def predicted_against_true(predictions: pd.DataFrame) -> alt.TopLevelMixin:
    """Predicted against true test accuracy, a panel per family.

    `predictions` has columns family, target and leak_free, the predictions.
    """
    axes = {"target": "true test accuracy", "leak_free": "predicted test accuracy"}
    return _chart(_panels(predictions), axes, diagonal=True)


def predicted_gaps(predictions: pd.DataFrame) -> alt.TopLevelMixin:
    """Predicted against true gap, a panel per family; columns family, gap, predicted and hyper.

    Colours tell apart the values of `hyper`, one hyper-parameter (as text); on the line the
    prediction is true.
    """
    axes = {"gap": "gap", "predicted": "predicted gap"}
    return _chart(_panels(predictions), axes, diagonal=True)


def measure_against_gap(table: pd.DataFrame, measure: str) -> alt.TopLevelMixin | None:
    """A measure against the gap, a panel per family; columns family, value, gap and hyper.

    Colours tell apart the values of `hyper`, one hyper-parameter (as text). measure: what the axis
    says. None without rows.
    """
    return None if table.empty else _chart(_panels(table), {"value": measure, "gap": "gap"})


def probed_epochs(table: pd.DataFrame, *, measure: str, outcome: str) -> alt.TopLevelMixin:
    """A measure against an outcome at several epochs, a panel each.

    `table` has columns epoch, value, outcome and hyper: colours tell apart the values of `hyper`,
    one hyper-parameter (as text). measure, outcome: what the axes say.
    """
    panels = [(f"epoch {epoch}", part) for epoch, part in table.groupby("epoch")]
    return _chart(panels, {"value": measure, "outcome": outcome})


def bundle(spec: dict) -> dict:
    """What a notebook keeps of a chart: its image, specification, data and words, by MIME type."""
    tables = map(pd.DataFrame, spec["datasets"].values())
    rows = pd.concat(table for table in tables if "model_id" in table)  # the others are diagonals
    points = spec["concat"][0]["layer"][-1]["encoding"]
    told = {
        "panels": "; ".join(panel["title"] for panel in spec["concat"]),
        "across": points["x"]["title"],
        "upwards": points["y"]["title"],
    }
    if "hyper" in rows:
        told["colours"] = "; ".join(sorted(rows["hyper"].unique()))
    return {
        "image/png": vl_convert.vegalite_to_png(spec, scale=2),
        VEGA_LITE: spec,
        "text/csv": rows.to_csv(index=False),
        "text/plain": f"Figure. {' '.join(f'{k.capitalize()}: {v}.' for k, v in told.items())}",
    }


def _panels(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(name_of(name), rows) for name, rows in table.groupby("family", sort=False)]


def _chart(
    panels: list[tuple[str, pd.DataFrame]], axes: dict[str, str], *, diagonal: bool = False
) -> alt.ConcatChart:
    """A panel for each table, two beside each other; axes: column -> title, across and upwards."""
    drawn = [_panel(rows, axes, diagonal).properties(title=name) for name, rows in panels]
    return (
        alt.concat(*drawn, columns=2, spacing=12)
        .configure_view(stroke=None)
        .configure_axis(gridOpacity=0.3, labelFontSize=11, titleFontSize=12, titleFontWeight=400)
        .configure_legend(orient="bottom", labelFontSize=12, symbolOpacity=1)
        .configure_title(anchor="start", fontSize=12, fontWeight=400)
    )


def _panel(rows: pd.DataFrame, axes: dict[str, str], diagonal: bool) -> Any:
    kept = _told_of(rows, axes)
    scales: dict[str, Any] = {"scale": alt.Scale(zero=False), "axis": alt.Axis(tickCount=5)}
    x, y = (
        channel(column, type="quantitative", title=title, **scales)
        for channel, (column, title) in zip((alt.X, alt.Y), axes.items(), strict=True)
    )
    colour: Any = alt.value(COLOURS[0])
    if "hyper" in kept:
        order = [*getattr(kept["hyper"].dtype, "categories", ())] or alt.Undefined
        options: dict[str, Any] = {"scale": alt.Scale(range=COLOURS), "sort": order}
        colour = alt.Color("hyper:N", legend=alt.Legend(title=None, columns=3), **options)
    titles = {column: axes.get(column, words(column.removeprefix("hp_"))) for column in kept}
    hover = [alt.Tooltip(c, title=title) for c, title in titles.items() if c != "hyper"]
    points = alt.Chart(kept).mark_circle(size=35, opacity=0.7)
    points = points.encode(x=x, y=y, color=colour, tooltip=hover)
    ends = [max(rows[column].min() for column in axes), min(rows[column].max() for column in axes)]
    places = alt.InlineData(values=[dict.fromkeys(axes, float(end)) for end in ends])
    line = alt.Chart(places).mark_line(color="gray", strokeWidth=1).encode(x=x, y=y)
    return alt.layer(*([line] if diagonal else []), points).properties(width=WIDE, height=HIGH)


def _told_of(rows: pd.DataFrame, axes: dict[str, str]) -> pd.DataFrame:
    """What a chart keeps of networks: which they are, the settings that vary, and the numbers."""
    settings = rows.filter(regex="^hp_")
    varied = settings.columns[settings.nunique() > 1]
    columns = dict.fromkeys([*TOLD, *varied, *axes, "hyper"])
    kept = rows.loc[:, [c for c in columns if c in rows]].dropna(axis="columns", how="all")
    numbers = kept.select_dtypes("float")
    return kept.assign(**numbers.map(lambda value: float(f"{value:.{DIGITS}g}")))


alt.renderers.register("book", bundle)  # `figures.use_style` makes notebooks take it
