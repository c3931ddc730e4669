"""What the page of every score includes."""

import io
import json
import re

import pandas as pd
import pytest

from gengap.book import every_score
from gengap.errors import GengapError
from gengap.evaluation.baselines import BASELINE


@pytest.fixture
def included(monkeypatch):
    """The page's files, of three rows of scores."""
    names = {"measure": ["path_norm", "path_norm", BASELINE], "score": ["kendall_tau", "r2", "r2"]}
    rows = pd.DataFrame(names | {"value": [0.1234, None, 0.5], "note": [None, "too few", None]})
    rows["family"], rows["reliability"] = "Zoo", 0.9
    kept = {every_score.KEY: rows.to_csv(index=False)}
    monkeypatch.setattr(every_score, "glued", lambda chapter: kept)
    return every_score.pages()


def test_the_file_has_every_row_with_the_kind_of_its_measure(included):
    rows = pd.read_csv(io.StringIO(included["every-score.csv"]))
    assert [*rows.columns] == ["measure", "kind", "score", "value", "note", "family", "reliability"]
    assert [*rows["kind"]] == ["norms", "norms", "baseline"]


def test_the_script_s_data_are_the_rows_and_the_links_to_their_definitions(included):
    [text] = re.findall(r">(\{.*\})</script>", included["every-score.html"])
    data = json.loads(text)
    assert data["columns"][:5] == ["measure", "kind", "score", "value", "note"]
    assert [row[:5] for row in data["data"][:2]] == [
        ["path_norm", "norms", "kendall_tau", 0.1234, None],
        ["path_norm", "norms", "r2", None, "too few"],
    ]
    ends = {name: link.partition("#")[2] for name, link in data["links"].items()}
    assert ends == {
        "path_norm": "gengap.measures.norms.path_norm",
        "kendall_tau": "gengap.evaluation.scores.kendall_tau",
        "r2": "gengap.evaluation.scores.r2_of_ranks",
        BASELINE: "gengap.evaluation.baselines.baselines",
    }


def test_the_front_page_s_figure_is_of_measures_and_settings_where_the_gap_is_known():
    rows = pd.DataFrame(
        {
            "measure": ["path_norm", BASELINE, "train loss only", "margin", "vr", "vpm"],
            "score": [*5 * ["kendall_tau"], "r2"],
            "value": [0.1, 0.5, 0.6, None, 0.2, 0.3],
            "reliability": [0.9, 0.9, 0.9, 0.9, 0.1, 0.9],
        }
    )
    assert [*every_score.measures_and_settings(rows)["measure"]] == ["path_norm", BASELINE]


def test_a_chapter_that_glued_no_scores_is_one_sentence(monkeypatch):
    monkeypatch.setattr(every_score, "glued", lambda chapter: {"worst": "0.1"})
    with pytest.raises(GengapError, match="every-score.md asks for 'every_score' of chapter 05-"):
        every_score.pages()
