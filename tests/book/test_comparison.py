"""Two runs of a chapter: what differs is found by labels, and nothing else is told."""

import nbformat
import numpy as np
import pandas as pd
import pytest

from gengap import GengapError
from gengap.book.comparison import COLUMNS, compared


def run_of(path, *tables):
    cells = [nbformat.v4.new_markdown_cell("# A chapter\n\n## First section")]
    for number, table in enumerate(tables):
        shown = {"text/html": table.to_html(), "text/plain": str(table)}
        output = nbformat.v4.new_output("execute_result", data=shown, execution_count=1)
        cells.append(nbformat.v4.new_code_cell(f"table_{number}", outputs=[output]))
        cells.append(nbformat.v4.new_markdown_cell(f"## After table {number}"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def table():
    levels = pd.MultiIndex.from_product(
        [["left", "right"], ["a", "b"]], names=["family", "measure"]
    )
    columns = pd.MultiIndex.from_product([["tau", "r2"], ["value", "low"]])
    return pd.DataFrame(np.arange(16.0).reshape(4, 4), index=levels, columns=columns)


def test_equal_runs_differ_in_nothing(tmp_path, table):
    one, other = (run_of(tmp_path / f"{name}.ipynb", table) for name in "ab")
    found = compared(one, other)
    assert list(found.columns) == COLUMNS
    assert found.empty


def test_a_changed_cell_is_told_by_all_its_labels(tmp_path, table):
    changed = table.copy()
    changed.loc[("right", "b"), ("tau", "low")] = -1
    one = run_of(tmp_path / "one.ipynb", table, table)
    row = compared(one, run_of(tmp_path / "other.ipynb", table, changed)).iloc[0]
    assert list(row[:4]) == ["After table 0", 2, 16, 1]
    assert row["first difference"] == "right b, tau low: 13.0 -> -1.0"


def test_other_orders_are_no_difference_and_rows_of_one_run_alone_are(tmp_path, table):
    plain = table.set_axis(list("wxyz"), axis=1).set_axis(list("abcd"))
    one = run_of(tmp_path / "one.ipynb", plain)
    assert compared(one, run_of(tmp_path / "other.ipynb", plain[::-1])).empty
    row = compared(one, run_of(tmp_path / "fewer.ipynb", plain.drop(index="c"))).iloc[0]
    assert list(row[2:]) == [16, 4, "c, w: 8.0 -> absent"]


def test_what_cannot_be_compared_is_one_sentence(tmp_path, table):
    one, empty = run_of(tmp_path / "one.ipynb", table), run_of(tmp_path / "empty.ipynb")
    with pytest.raises(GengapError, match="have no table of the same code; give two runs"):
        compared(one, empty)
    (tmp_path / "text.ipynb").write_text("no notebook")
    for file in ("text.ipynb", "absent.ipynb"):
        with pytest.raises(GengapError, match=f"{file} is no notebook"):
            compared(one, tmp_path / file)
