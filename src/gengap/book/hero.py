"""The figure of the front page, an SVG in its text: a pointer on a point names the measure.

It needs no script but to show the same measure in all rows; see `charts.js`.
"""

from html import escape

from pandas import DataFrame

from gengap.evaluation.baselines import BASELINE

LEFT, UNIT, ROW, TOP = 126, 150, 24, 40  # units: names of rows, from 0 to 1, a row, the legend


def hero(scores: DataFrame) -> str:
    """SVG of each measure's rank correlation with the gap, a row a family, beside the settings'.

    scores: columns family, measure and value; BASELINE names the rows of the settings.
    """
    rows = {name: TOP + ROW * row for row, name in enumerate(scores["family"].unique())}
    end = TOP + ROW * len(rows) - 8
    parts = [_text(LEFT - 8, y, name, "end") for name, y in rows.items()]
    parts += [f'<path d="M{_across(0)} {TOP - 10}V{end}M{LEFT} {end}h{2 * UNIT}"/>']
    parts += [_text(_across(tick), end + 15, f"{tick:g}") for tick in (-1, -0.5, 0, 0.5, 1)]
    parts += [_text(_across(0), end + 33, "rank correlation with the gap (Kendall's τ)")]
    parts += [_text(LEFT / 2 + UNIT, end + 53, "Point at one to see it in all rows.", kind="told")]
    for value, name, told in ((-0.8, "", "a measure"), (-0.1, BASELINE, "the settings alone")):
        parts += [_point(_across(value), 12, name), _text(_across(value) + 9, 12, told, "start")]
    settings_last = scores.sort_values("measure", key=lambda names: names == BASELINE)
    for family, measure, value in settings_last[["family", "measure", "value"]].itertuples(False):
        told = f"<title>{escape(measure)}: {value:.2f}, {escape(family)}</title>"
        parts.append(_point(_across(value), rows[family], measure, told))
    size = f"0 0 {LEFT + 2 * UNIT + 14} {end + 60}"
    return f'<svg class="hero" viewBox="{size}" aria-hidden="true">{"".join(parts)}</svg>\n'


def _across(value: float) -> float:
    return round(LEFT + UNIT * (1 + value), 1)


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "") -> str:
    return f'<text class="{kind}" x="{x}" y="{y + 4}" text-anchor="{anchor}">{escape(text)}</text>'


def _point(x: float, y: float, measure: str, told: str = "") -> str:
    kind, radius = ("settings", 5) if measure == BASELINE else ("measure", 3)
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}">{told}</circle>'
