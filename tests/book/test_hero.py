"""The figure of the front page."""

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from gengap.book import hero
from gengap.evaluation.baselines import BASELINE


@pytest.fixture
def drawn():
    rows = [("Zoo", BASELINE, 0.5), ("Zoo", "margin", -1.0), ("PGDL & more", "margin", 0.25)]
    scores = pd.DataFrame(rows, columns=["family", "measure", "value"])
    return BeautifulSoup(hero.hero(scores), "html.parser").svg


def test_a_point_stands_where_its_value_is_in_the_row_of_its_family(drawn):
    heights = {text.get_text(): int(text["y"]) - 4 for text in drawn.find_all("text")}
    points = [(float(c["cx"]), int(c["cy"])) for c in drawn.find_all("circle") if c.title]
    assert points == [
        (hero.LEFT, heights["Zoo"]),
        (hero.LEFT + 1.25 * hero.UNIT, heights["PGDL & more"]),
        (hero.LEFT + 1.5 * hero.UNIT, heights["Zoo"]),
    ]


def test_a_point_tells_its_measure_and_the_settings_are_drawn_last(drawn):
    told = [(c["class"], c.title.get_text()) for c in drawn.find_all("circle") if c.title]
    assert told == [
        (["measure"], "margin: -1.00, Zoo"),
        (["measure"], "margin: 0.25, PGDL & more"),
        (["settings"], f"{BASELINE}: 0.50, Zoo"),
    ]
