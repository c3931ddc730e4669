"""The page of every score: what chapter 5 computed, as one table that readers sort and filter.

The chapter glues the table as CSV; book/every-score.md shows it, and book/_static/every-score.js
sorts and filters it.
"""

import io
import json

import pandas as pd
from pandas import DataFrame

from gengap.book.front_page import glued, taken
from gengap.book.hero import hero
from gengap.book.reference import definition
from gengap.evaluation import baselines
from gengap.evaluation.reliability import RELIABLE
from gengap.evaluation.scores import CRITERIA
from gengap.measures import MEASURES

CHAPTER, KEY = "05-everywhere", "every_score"


def pages() -> dict[str, str]:
    """What pages include, by file name: the rows as CSV, as a script's data, and as a figure.

    Raises: GengapError if the chapter did not glue them.
    """
    found = rows()
    return {
        "every-score.csv": found.to_csv(index=False),
        "every-score.html": script(found),
        "hero.svg": hero(measures_and_settings(found)),
    }


def rows() -> DataFrame:
    """Every score as chapter 5 glued it, with the kind of each measure.

    Raises: GengapError if the chapter did not glue them.
    """
    text = taken(glued(CHAPTER), KEY, CHAPTER, "book/every-score.md")
    found = pd.read_csv(io.StringIO(text))
    found.insert(found.columns.get_loc("measure") + 1, "kind", found["measure"].map(kind))
    return found


def measures_and_settings(rows: DataFrame) -> DataFrame:
    """Rank correlations of all measures and of the settings, where the gap is known."""
    known = rows[(rows["score"] == "kendall_tau") & (rows["reliability"] >= RELIABLE)]
    others = set(baselines.BASELINES) - {baselines.BASELINE}
    return known[~known["measure"].isin(others)].dropna(subset="value")


def kind(measure: str) -> str:
    """What a measure looks at, in the words of the measures' page; or that it is a baseline."""
    if measure in baselines.BASELINES:
        return "baseline"
    return MEASURES[measure].__module__.rpartition(".")[2].replace("_", " ")


def script(rows: DataFrame) -> str:
    """The rows and the links of their measures and scores, as data in HTML."""
    defined = {name: MEASURES.get(name, baselines.baselines) for name in rows["measure"].unique()}
    defined |= {name: CRITERIA[name].score for name in rows["score"].unique()}
    links = {name: definition(function) for name, function in defined.items()}
    columns = json.loads(rows.to_json(orient="split", index=False))
    text = json.dumps({"links": links} | columns, separators=(",", ":"))
    return f'<script type="application/json" id="every-score-data">{text}</script>\n'
