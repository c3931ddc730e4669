"""An extension of Sphinx: figures and tables of chapters have numbers, titles and their data.

A figure of points is kept as a chart too, which the page draws over it: see `charts.js`.

A title is what a cell's next paragraph begins with, if that is a sentence in italics, and else the
heading above. The data of a table are its cells as shown, those of a figure what its notebook keeps
of it (see `gengap.book.figures.data`); both are written as CSV beside the pages.
"""

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
import vl_convert
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.osutil import relative_uri

from gengap.book.figures.points import VEGA_LITE
from gengap.book.figures.style import NAMES
from gengap.book.html_tables import table_of

CSV = "text/csv"


def keep_data_of_figures(app: Sphinx, page: str, source: list[str]) -> None:
    """A figure's data, which MyST cannot show, move from a cell's outputs to its metadata.

    Each figure of a cell has one of `csv` there and one of `charts`, None if it is an image alone.
    """
    if CSV in source[0]:
        chapter = nbformat.reads(source[0], as_version=4)
        for cell in chapter.cells:
            shown = [output.get("data", {}) for output in cell.get("outputs", ())]
            figures = [data for data in shown if CSV in data]
            cell.metadata["csv"] = [data.pop(CSV) for data in figures]
            cell.metadata["charts"] = [data.pop(VEGA_LITE, None) for data in figures]
        source[0] = nbformat.writes(chapter)


def number(app: Sphinx, document: nodes.document, page: str) -> None:
    """Each figure and table that a cell shows gets its number, its title and a link to its data."""
    counts: Counter[str] = Counter()
    for output in [node for node in document.findall(nodes.container) if _is_output(node)]:
        metadata = output.parent["cell_metadata"]
        kept, charts = (iter(metadata.get(key, ())) for key in ("csv", "charts"))
        for shown in [node for node in output.findall() if kind_of(node)]:
            kind = kind_of(shown)
            counts[kind] += 1
            label = f"{kind} {counts[kind]}"
            title, reading = title_of(output.parent)
            parts = [nodes.strong("", f"{label}. "), *title]
            is_image = isinstance(shown, nodes.image)
            if is_image:
                told = "" if shown["alt"].startswith("<Figure") else shown["alt"]
                shown["alt"] = " ".join(f"{label}. {reading} {told}".split())
            if data := next(kept, "") if is_image else as_csv(shown):
                parts.append(link(app, page, label, data))
            # A caption of HTML's figures goes on to their end: that of a table is a paragraph.
            whole = nodes.figure() if is_image else nodes.container()
            whole.update_basic_atts({"ids": [anchor(label)], "classes": ["numbered"]})
            shown.parent.replace(shown, whole)
            if is_image:
                spec = next(charts, None)
                whole += [shown, *([chart(spec)] if spec else []), nodes.caption("", "", *parts)]
            else:
                whole += [nodes.paragraph("", "", *parts, classes=["caption"]), shown]


def anchor(label: str) -> str:
    """The place of `Table 3` in its page, and the name of its file."""
    return label.lower().replace(" ", "-")


def kind_of(node: nodes.Node) -> str:
    """Figure, Table, or nothing that gets a number."""
    is_html = isinstance(node, nodes.raw) and "<table" in node.astext()
    if is_html or isinstance(node, nodes.table):
        return "Table"
    return "Figure" if isinstance(node, nodes.image) else ""


def title_of(cell: nodes.Element) -> tuple[list[nodes.Node], str]:
    """The title of what a cell shows, taken out of the paragraph below it; and that paragraph."""
    below = cell.next_node(descend=False, siblings=True)
    leading = below[0] if isinstance(below, nodes.paragraph) else None
    if isinstance(leading, nodes.emphasis) and leading.astext().endswith("."):
        reading, title = below.astext(), below.pop(0).children
        if not below.astext().strip():
            below.parent.remove(below)
        return title, reading
    section = cell
    while not isinstance(section, nodes.section):
        section = section.parent
    heading = section.next_node(nodes.title).astext().lstrip("0123456789. ")  # of an entry
    return [nodes.Text(heading)], f"{heading}."


def as_csv(table: nodes.Element) -> str:
    """What a table shows; a cell that spans others is repeated in each of them."""
    if isinstance(table, nodes.table):
        rows = [[e.astext() for e in row.findall(nodes.entry)] for row in table.findall(nodes.row)]
    else:
        head, rows, _ = table_of(table.astext())
        rows = [head, *rows] if head else rows
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def link(app: Sphinx, page: str, label: str, data: str) -> nodes.raw:
    """A link to the data, which are written to a file."""
    place = f"_downloads/{Path(page).name}/{anchor(label)}.csv"
    file = Path(app.outdir) / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(data)
    target = relative_uri(app.builder.get_target_uri(page), place)
    html = f' <a class="csv" download href="{target}" aria-label="{label} as CSV">CSV</a>'
    return nodes.raw("", html, format="html")


def chart(spec: dict[str, Any]) -> nodes.raw:
    """What `charts.js` draws in place of the image before it."""
    text = json.dumps(spec, separators=(",", ":")).replace("</", "<\\/")
    return nodes.raw("", f'<script type="application/json">{text}</script>', format="html")


def write_script(app: Sphinx, failure: Exception | None) -> None:
    """The script that draws charts, once for all pages: Vega, of an installed package."""
    file = Path(app.outdir) / "_static" / "vega.js"
    if app.builder.format == "html" and not failure and not file.exists():
        # In a function: what a module calls its own would else be everyone's.
        bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]
        file.write_text(f"(() => {{{bundle}}})();")


def _is_output(node: nodes.container) -> bool:
    return "cell_output" in node["classes"] and "cell_metadata" in node.parent.attributes


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", keep_data_of_figures)
    app.connect("doctree-resolved", number)
    app.connect("build-finished", write_script)
    app.add_js_file(None, body=f"window.familyNames = {json.dumps(NAMES)};")  # for tables.js
    return {"parallel_read_safe": True}
