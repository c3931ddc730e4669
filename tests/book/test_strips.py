"""The strip of rank correlations below the name of each measure."""

import re

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from gengap.book import every_score, strips
from gengap.measures import MEASURES


@pytest.fixture
def rows():
    return pd.DataFrame({"family": ["Zoo, MNIST", "PGDL, task 1"], "value": [-0.5, 0.25]})


def test_a_strip_has_a_mark_for_each_family_where_its_value_is(rows):
    svg = BeautifulSoup(strips.strip("path_norm", rows), "html.parser").svg
    middles = [float(mark["x"]) + float(mark["width"]) / 2 for mark in svg.find_all("rect")]
    assert middles == [strips.HALF * 0.5, strips.HALF * 1.25]
    assert [mark["class"] for mark in svg.find_all("rect")] == [["zoo"], ["pgdl"]]


def test_a_strip_is_told_in_words_and_leads_to_all_scores(rows):
    found = BeautifulSoup(strips.strip("path_norm", rows), "html.parser")
    expected = "Kendall's tau with the gap: Zoo, MNIST -0.50, PGDL, task 1 0.25"
    assert found.svg["aria-label"] == expected
    assert "\u22120.50 to 0.25 in 2 families" in found.get_text()
    assert found.a["href"] == "every-score.html?find=path_norm"


def test_where_nothing_is_known_a_sentence_says_so(rows):
    assert "No family" in strips.strip("path_norm", rows[:0])


def test_it_stands_with_relatives_below_the_first_sentence_of_measures_and_of_nothing_else(
    monkeypatch,
):
    rows = pd.DataFrame({"measure": ["path_norm", "margin"], "score": "kendall_tau"})
    rows = rows.assign(family="Zoo, MNIST", value=[0.1, 0.2])
    monkeypatch.setattr(every_score, "rows", lambda: rows)
    strips._taus.cache_clear()
    lines, other = ["A norm.", "", "More."], ["A norm.", ""]
    monkeypatch.setattr(strips.relatives, "see_also", lambda *_: "See also `margin`")
    strips.add(None, "function", "x.path_norm", MEASURES["path_norm"], None, lines)
    strips.add(None, "function", "x.path_norm", strips.strip, None, other)
    strips._taus.cache_clear()
    assert other == ["A norm.", ""]
    assert [line for line in lines if line and "svg" not in line] == [
        "A norm.",
        ".. raw:: html",
        ".. container:: strip",
        "   See also `margin`",
        "More.",
    ]
    [html] = [line for line in lines if "svg" in line]
    assert re.findall(r"<title>(.*?)</title>", html) == ["Zoo, MNIST: 0.10"]
