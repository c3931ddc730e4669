import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from papermill import inspect_notebook
from scipy import stats

import gengap
from gengap.evaluation.baselines import BASELINE
from gengap.evaluation.scores import CRITERIA
from gengap.folders import repository
from gengap.studies.judgement import DRAWN
from gengap.submission.page import page, place_texts, strip_chart
from gengap.submission.standing import kept_values, reasons, scored_beside_all, standing
from gengap.tables.identity import versions_now
from gengap.tables.store import STORED, table_file

MODELS = 48


def grid_index() -> pd.DataFrame:
    """48 networks, two families of 24 on a grid of 4 by 3 by 2, at the epochs 1 and 2."""
    at = np.arange(MODELS)
    index = pd.DataFrame({"model_id": [f"m{i}" for i in at], "family": np.repeat(["a", "b"], 24)})
    gap = np.random.default_rng(0).permutation(MODELS) / MODELS
    index = index.assign(epoch=2, train_accuracy=1.0, test_accuracy=1 - gap)
    index = index.assign(train_loss=0.1, test_loss=0.2, hp_x=at % 4, hp_y=at // 4 % 3)
    index["hp_z"] = at // 12 % 2
    early = index.assign(epoch=1, model_id=index["model_id"] + "early")
    return pd.concat([index, early])


@pytest.fixture
def grid(tiny, tmp_path, monkeypatch):
    """The collection with a table of three measures: the gap, its opposite, and noise."""
    monkeypatch.setattr("gengap.evaluation.baselines.TREES", 30)  # no test is about the forest
    monkeypatch.setattr("gengap.submission.values.results_folder", lambda: tmp_path / "scores")
    monkeypatch.setattr(tiny, "read_index", grid_index)
    index = tiny.index()
    gap = index["train_accuracy"] - index["test_accuracy"]
    noise = np.random.default_rng(1).normal(size=len(index))
    rows = pd.concat(
        index[["model_id", "family"]].assign(measure=name, value=values)
        for name, values in (("perfect", gap), ("opposite", -gap), ("noise", noise))
    )
    for name, version in versions_now(tiny, {}).models.items():
        rows[name] = rows["model_id"].map(version)
    rows = rows.assign(collection="tiny", note="", source="", seconds=0.0)[STORED]
    table = table_file(tiny)
    table.parent.mkdir(parents=True)
    rows.to_parquet(table)
    return tiny


def mine(grid, values) -> pd.DataFrame:
    """Rows of a new measure at the last epoch."""
    rows = grid.index().query("epoch == 2")[["model_id", "family"]]
    rows = rows.assign(collection="tiny", measure="mine", value=values, seconds=0.0)
    return rows.assign(note=np.where(rows["value"].isna(), "it returned nan", ""))


def noisy_gap(grid) -> pd.Series:
    index = grid.index().query("epoch == 2")
    return 1 - index["test_accuracy"] + np.random.default_rng(2).normal(0, 0.3, MODELS)


def test_scores_are_those_of_scipy_with_an_interval_around_them(grid):
    rows = mine(grid, noisy_gap(grid))
    scores = scored_beside_all(rows, [grid])
    gap = 1 - grid.index().query("epoch == 2")["test_accuracy"]
    for family, part in rows.groupby("family"):
        found = scores.set_index(["family", "measure", "score"]).loc[family]
        tau = stats.kendalltau(part["value"], gap[part.index]).statistic
        assert found["value"]["mine", "kendall_tau"] == pytest.approx(tau, abs=1e-12)
        assert found["value"]["perfect", "kendall_tau"] == pytest.approx(1)
        assert found["low"]["mine", "kendall_tau"] < tau < found["high"]["mine", "kendall_tau"]
    assert set(scores["models"]) == {24} == set(scores["family_models"])


def test_the_rank_counts_better_measures_and_no_baseline(grid):
    places = standing(scored_beside_all(mine(grid, noisy_gap(grid)), [grid]), "mine")
    assert set(places["score"]) == set(CRITERIA) and len(places) == 2 * len(CRITERIA)
    ranked = places[places["value"].notna()]
    signed = ranked[ranked["score"].isin(["kendall_tau", "spearman", "granulated_tau"])]
    assert set(signed["rank"]) == {2} and set(signed["best"]) == {"perfect"}
    assert set(ranked["measures"]) == {4}
    errors = ranked[ranked["score"] == "mean_sign_error"]
    assert set(errors["best"]) <= {"perfect"} and set(errors["rank"]) <= {2}
    perfect = standing(
        scored_beside_all(mine(grid, kept_values(grid)["perfect"].to_numpy()[:MODELS]), [grid]),
        "mine",
    )
    assert set(perfect[perfect["score"] == "kendall_tau"]["rank"]) == {1}


def test_models_without_a_value_are_left_out_and_counted(grid):
    values = noisy_gap(grid)
    values.iloc[:2] = np.nan
    values.iloc[24:] = np.nan
    rows = mine(grid, values)
    places = standing(scored_beside_all(rows, [grid]), "mine")
    assert set(places["family"]) == {"a"} and set(places["models"]) == {22}
    assert place_texts(places)["models"].tolist()[0] == "22 of 24"
    told = reasons(rows)
    assert told["models"].tolist() == [24, 2] and set(told["reason"]) == {"it returned nan"}
    assert told["first"].tolist() == ["m24", "m0"]


def test_too_few_models_are_said_to_be(grid):
    values = noisy_gap(grid).where(np.arange(MODELS) < 10)
    texts = place_texts(standing(scored_beside_all(mine(grid, values), [grid]), "mine"))
    assert texts["value"].str.contains("10 .* networks have a value; 20 are needed").all()


def test_a_table_that_is_not_there_leaves_the_measure_alone_with_the_baselines(grid):
    table_file(grid).unlink()
    places = standing(scored_beside_all(mine(grid, noisy_gap(grid)), [grid]), "mine")
    tau = places[places["score"] == "kendall_tau"]
    assert set(tau["rank"]) == set(tau["measures"]) == {1} and tau["baseline"].notna().all()
    assert place_texts(tau)["best other"].tolist() == ["-", "-"]


def test_values_of_models_that_changed_since_are_not_read(grid):
    grid._index.loc[0, "test_loss"] += 1
    assert kept_values(grid).isna().any(axis=1).sum() == 1


def test_a_name_that_the_table_has_is_refused(grid):
    rows = mine(grid, noisy_gap(grid)).assign(measure="noise")
    with pytest.raises(gengap.GengapError, match="holds a measure 'noise' already; rename yours"):
        scored_beside_all(rows, [grid])


def test_a_measure_without_any_value_is_told(grid):
    with pytest.raises(gengap.GengapError, match="'mine' has no value on any model; .* note"):
        scored_beside_all(mine(grid, np.nan), [grid])


@pytest.mark.parametrize("kinds", [["kendall_tau"], [*CRITERIA]], ids=["one score", "all"])
def test_the_names_of_families_in_the_chart_do_not_overlap(grid, kinds):
    scores = scored_beside_all(mine(grid, noisy_gap(grid)), [grid], scores=kinds)
    figure = strip_chart("mine", scores)
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        lower, upper = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert lower.y1 < upper.y0


class Reader(HTMLParser):
    """Collects what a browser would ask for, and the text."""

    def __init__(self):
        super().__init__()
        self.asked, self.tags, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            local = (value or "").startswith("#")
            if name.split(":")[-1] in ("src", "href", "srcset", "data", "action") and not local:
                self.asked.append(value)

    def handle_data(self, data):
        self.text += data


def test_the_page_asks_nothing_of_a_network_and_has_every_ranking(grid):
    rows = mine(grid, noisy_gap(grid).where(np.arange(MODELS) > 0))
    rows["note"] = rows["note"].replace("it returned nan", "ValueError: <script>alert(1)</script>")
    scores = scored_beside_all(rows, [grid])
    html = page("mine", scores, standing(scores, "mine"), reasons(rows))
    reader = Reader()
    reader.feed(html)
    assert reader.asked == []
    assert not {"script", "link", "iframe", "img", "object", "image"} & set(reader.tags)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", html)
    assert reader.tags.count("details") == scores.groupby(["family", "score"]).ngroups
    assert html.count('class="own"') == reader.tags.count("details")
    assert "width=device-width" in html and BASELINE in reader.text
    assert "<script>alert(1)</script>" in reader.text


def test_the_page_marks_names_and_reasons_as_text_and_shows_them_whole(grid):
    rows = mine(grid, noisy_gap(grid).where(np.arange(MODELS) > 0))
    rows["note"] = rows["note"].replace("it returned nan", "a long reason, " * 20 + "<b>&amp;")
    scores = scored_beside_all(rows, [grid], scores=["kendall_tau"])
    html = page("mine", scores, standing(scores, "mine"), reasons(rows))
    assert "<td>" + "a long reason, " * 20 + "&lt;b&gt;&amp;amp;</td>" in html
    assert html.startswith("<!DOCTYPE html>") and html.count("<table>") == html.count("</table>")


def test_a_family_of_any_name_is_shown(grid, monkeypatch):
    index = grid_index().replace({"family": {"a": "cost $\\foo$", "b": "<i>"}})
    monkeypatch.setattr(grid, "read_index", lambda: index)
    grid.__dict__.pop("_index")
    scores = scored_beside_all(mine(grid, noisy_gap(grid)), [grid], scores=["kendall_tau"])
    html = page("mine", scores, standing(scores, "mine"), reasons(mine(grid, noisy_gap(grid))))
    assert "cost $\\foo$</text>" in html and "<summary>tiny, &lt;i&gt;: kendall_tau" in html


def test_too_few_models_make_a_page_without_a_chart(grid):
    rows = mine(grid, noisy_gap(grid).where(np.arange(MODELS) < 10))
    few = grid.select("epoch == 2 and family == 'a' and hp_x < 2")
    scores = scored_beside_all(rows, [few])
    html = page("mine", scores, standing(scores, "mine"), reasons(rows))
    assert "<svg" not in html and "<details>" not in html and "are needed)</td>" in html


def test_values_that_were_measured_at_one_place_are_found_at_another(tiny, tmp_path):
    places = [tmp_path / "fetched", tmp_path / "a copy"]
    for place in places:
        place.mkdir()
    first, second = (gengap.open_collection("tiny", place) for place in places)
    gengap.measure_table(first.select("family == 'left'"), "raw_parameter_norm")
    known = kept_values(second)["raw_parameter_norm"].notna()
    assert list(known) == [model_id.startswith("left") for model_id in known.index]
    gengap.measure_table(second.select("family == 'right'"), "raw_parameter_norm")
    assert kept_values(first)["raw_parameter_norm"].notna().all()
    assert "raw_parameter_norm" not in kept_values(tiny)


def test_others_are_judged_once_for_all_measures_of_ones_own(grid, monkeypatch):
    first = scored_beside_all(mine(grid, noisy_gap(grid)), [grid], scores=["kendall_tau"])
    assert [file.name for file in table_file(grid).parent.iterdir()] == [table_file(grid).name]
    monkeypatch.setattr("gengap.tables.fits._called", None)  # no other can be judged any more
    again = scored_beside_all(mine(grid, noisy_gap(grid)), [grid], scores=["kendall_tau"])
    pd.testing.assert_frame_equal(again, first, check_exact=True)
    whole = scored_beside_all(mine(grid, -noisy_gap(grid)), [grid])
    others = whole[(whole["score"] == "kendall_tau") & (whole["measure"] != "mine")]
    theirs = first[first["measure"] != "mine"]
    pd.testing.assert_frame_equal(others.reset_index(drop=True), theirs.reset_index(drop=True))


def test_others_are_drawn_as_in_the_chapter_whose_rows_are_shipped():
    chapter = inspect_notebook(repository() / "notebooks" / "05-everywhere.ipynb")
    assert {name: int(chapter[name]["default"]) for name in DRAWN} == DRAWN
    assert chapter["seed"]["default"] == "0"
