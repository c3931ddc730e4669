"""The table of every score: all rows are there, sorted, filtered and linked."""

import csv

import pytest

from gengap.evaluation.scores import CRITERIA

COLUMNS = ["Measure", "Kind", "Family", "Score", "Value", "95 % interval"]


@pytest.fixture(scope="module")
def rows(built):
    [file] = built.glob("_downloads/*/every-score.csv")
    with file.open() as text:
        return [*csv.DictReader(text)]


@pytest.fixture
def table(window, built):
    tab = window.new_page()
    tab.goto((built / "book" / "every-score.html").as_uri())
    yield tab
    tab.close()


def column(tab, name):
    """The texts of a column, from the top."""
    place = COLUMNS.index(name) + 1
    return tab.locator(f"#every-score tbody tr > :nth-child({place})").all_inner_texts()


def chosen(tab, **choices):
    """How many rows are left by these choices."""
    for name, value in choices.items():
        tab.locator(f"select[name={name}]").select_option(value)
    return int(tab.locator(".dt-info").inner_text().split()[0].replace(",", ""))


def numbers(texts):
    return [float(text.replace("\u2212", "-")) for text in texts]


def test_it_opens_with_kendall_s_tau_from_the_largest_down(table, rows):
    known = [float(r["value"]) for r in rows if r["score"] == "kendall_tau" and r["value"]]
    assert set(column(table, "Score")) == {"Kendall's tau"}
    expected = sorted(known, reverse=True)[:25]
    assert numbers(column(table, "Value")) == pytest.approx(expected, abs=0.0051)


def test_a_click_on_a_head_sorts_the_other_way(table, rows):
    table.get_by_role("columnheader", name="Value").click()
    known = [float(r["value"]) for r in rows if r["score"] == "kendall_tau" and r["value"]]
    shown = numbers(column(table, "Value"))
    assert shown == pytest.approx(sorted(known)[:25], abs=0.0051)


def test_all_rows_can_be_shown_and_a_choice_leaves_what_it_names(table, rows):
    assert chosen(table, score="", known="") == len(rows)
    for key in ("family", "kind", "score"):
        values = sorted({row[key] for row in rows})
        offered = table.locator(f"select[name={key}] option").evaluate_all(
            "all => all.map(o => o.value)"
        )
        assert sorted(offered) == ["", *values]
        assert chosen(table, **{key: values[-1]}) == sum(row[key] == values[-1] for row in rows)
        chosen(table, **{key: ""})
    assert {row["score"] for row in rows} == set(CRITERIA)


def test_rows_without_a_value_say_why(table, rows):
    without = [row for row in rows if not row["value"]]
    assert chosen(table, score="", known="no") == len(without) > 0
    assert set(column(table, "Value")) == {"\u2013"}
    notes = table.locator("#every-score tbody tr > :last-child").all_inner_texts()
    assert set(notes) <= {row["note"] for row in without} and all(notes)


def test_a_part_of_a_name_finds_it_and_leads_to_its_definition(table, rows):
    table.get_by_label("Find").fill("path_norm")
    known = {row["measure"].replace("_", " ") for row in rows if "path_norm" in row["measure"]}
    assert set(column(table, "Measure")) == known > {"path norm"}
    table.get_by_role("link", name="path norm", exact=True).first.click()
    table.wait_for_url("**/measures-norms.html#gengap.measures.norms.path_norm")
    assert table.locator("[id='gengap.measures.norms.path_norm']").is_visible()


def test_a_strip_of_a_definition_leads_to_all_scores_of_its_measure(window, built, rows):
    tab = window.new_page()
    tab.goto((built / "book" / "measures-norms.html").as_uri())
    tab.get_by_role("link", name="all scores of path_norm", exact=True).click()
    tab.locator("#every-score tbody tr").first.wait_for()
    known = {row["measure"].replace("_", " ") for row in rows if "path_norm" in row["measure"]}
    assert set(column(tab, "Measure")) <= known
    tab.close()


def test_without_scripts_a_sentence_says_where_the_rows_are(window, built):
    context = window.browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((built / "book" / "every-score.html").as_uri())
    assert "all are in the CSV file" in tab.locator(".every-score noscript").inner_text()
    context.close()
