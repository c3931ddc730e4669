"""Numbers, titles and data of the figures and tables that chapters show."""

import csv
import io
import json
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from docutils import nodes
from docutils.utils import new_document

from gengap.book import numbered
from gengap.book.figures.points import VEGA_LITE


def table(frame):
    return nodes.raw("", frame.to_html(), format="html", classes=["output"])


def cell(*shown, **metadata):
    output = nodes.container("", *shown, classes=["cell_output"])
    return nodes.container("", output, classes=["cell"], cell_metadata=metadata)


@pytest.fixture
def page(tmp_path):
    """A chapter of two tables and a figure, as numbering leaves it."""
    document = new_document("chapter")
    section = nodes.section("", nodes.title("", "2. The networks"), ids=["the-networks"])
    image = nodes.image(alt="Figure. Across: epoch.", uri="a.png")
    sentence = nodes.emphasis("", "Gaps of all networks.")
    section += [
        cell(table(pd.DataFrame({"a": [1]}))),
        nodes.paragraph("", "", nodes.emphasis("", "a"), nodes.Text(" is a column.")),
        cell(image, csv=["across,upwards\n1,2\n"]),
        nodes.paragraph("", "", sentence, nodes.Text(" They are small.")),
        cell(table(pd.DataFrame({"b": [2]}))),
        nodes.paragraph("", "", nodes.emphasis("", "Nothing else.")),
    ]
    document += section
    builder = SimpleNamespace(get_target_uri=lambda page: f"{page}.html")
    numbered.number(SimpleNamespace(outdir=tmp_path, builder=builder), document, "book/chapter")
    return document


def test_tables_and_figures_are_counted_each_for_themselves(page):
    found = [
        node["ids"]
        for node in page.findall()
        if "numbered" in getattr(node, "attributes", {}).get("classes", ())
    ]
    assert found == [["table-1"], ["figure-1"], ["table-2"]]


def test_a_title_is_the_sentence_below_or_else_the_heading_above(page):
    tables = [
        node.astext() for node in page.findall(nodes.paragraph) if "caption" in node["classes"]
    ]
    assert [text.partition(" <a")[0] for text in tables] == [
        "Table 1. The networks",
        "Table 2. Nothing else.",
    ]
    [caption] = page.findall(nodes.caption)
    assert caption.astext().startswith("Figure 1. Gaps of all networks.")
    texts = [node.astext().strip() for node in page.findall(nodes.paragraph)]
    assert "They are small." in texts and "a is a column." in texts and "" not in texts


def test_the_alternative_text_is_what_is_said_below_and_what_is_drawn(page):
    [image] = page.findall(nodes.image)
    expected = "Figure 1. Gaps of all networks. They are small. Figure. Across: epoch."
    assert image["alt"] == expected


def test_the_data_lie_beside_the_page(page, tmp_path):
    folder = tmp_path / "_downloads" / "chapter"
    assert {file.name for file in folder.iterdir()} == {
        "table-1.csv",
        "table-2.csv",
        "figure-1.csv",
    }
    assert (folder / "figure-1.csv").read_text() == "across,upwards\n1,2\n"
    assert (folder / "table-2.csv").read_text() == ",b\n0,2\n"
    links = [node.astext() for node in page.findall(nodes.raw) if "download" in node.astext()]
    assert 'href="../_downloads/chapter/table-1.csv"' in links[0] and len(links) == 3


def test_the_csv_of_a_table_has_one_head_and_each_row_all_its_labels():
    rows = pd.MultiIndex.from_product([["mnist", "cifar"], ["a", "b"]], names=["family", "input"])
    columns = pd.MultiIndex.from_product([["published", "ours"], ["r2"]])
    frame = pd.DataFrame([[1, 2], [3, 4], [5, 6], [7, 8]], rows, columns)
    read = list(csv.reader(io.StringIO(numbered.as_csv(table(frame)))))
    assert read[0] == ["family", "input", "published r2", "ours r2"]
    assert read[2] == ["mnist", "b", "3", "4"] and read[4] == ["cifar", "b", "7", "8"]


def test_a_figure_s_data_move_to_where_the_page_finds_them():
    data = {"image/png": "", "text/csv": "x\n1\n"}
    shown = nbformat.v4.new_output("display_data", data)
    cells = [nbformat.v4.new_code_cell("draw()", outputs=[shown])]
    read = [nbformat.writes(nbformat.v4.new_notebook(cells=cells))]
    numbered.keep_data_of_figures(None, "chapter", read)
    [found] = nbformat.reads(read[0], as_version=4).cells
    assert found.metadata["csv"] == ["x\n1\n"] and set(found.outputs[0]["data"]) == {"image/png"}


def test_a_chart_moves_too_and_stands_as_data_behind_its_image(tmp_path):
    spec = {"concat": [], "description": "</script>"}
    shown = nbformat.v4.new_output(
        "display_data", {"image/png": "", "text/csv": "x", VEGA_LITE: spec}
    )
    cells = [nbformat.v4.new_code_cell("draw()", outputs=[shown])]
    read = [nbformat.writes(nbformat.v4.new_notebook(cells=cells))]
    numbered.keep_data_of_figures(None, "chapter", read)
    [found] = nbformat.reads(read[0], as_version=4).cells
    assert found.metadata["charts"] == [spec]
    html = numbered.chart(spec).astext()
    text = html.removeprefix('<script type="application/json">').removesuffix("</script>")
    assert json.loads(text) == spec and "</" not in text


def test_of_two_figures_of_a_cell_the_chart_belongs_to_its_own():
    image, spec = {"image/png": "", "text/csv": "x"}, {"concat": []}
    outputs = [
        nbformat.v4.new_output("display_data", data) for data in (image, image | {VEGA_LITE: spec})
    ]
    cells = [nbformat.v4.new_code_cell("draw()", outputs=outputs)]
    read = [nbformat.writes(nbformat.v4.new_notebook(cells=cells))]
    numbered.keep_data_of_figures(None, "chapter", read)
    [found] = nbformat.reads(read[0], as_version=4).cells
    assert found.metadata["charts"] == [None, spec] and found.metadata["csv"] == ["x", "x"]
