"""Tables as people write them: CSV with whatever separator, encoding and spaces.

The separator is the one of , ; and tab that the header has most of outside quotes; with ; and tab a
comma in a number is the decimal point. Rows without a cell are left out, and columns without a
name, as pandas writes numbers of rows. Encodings are UTF-8 and, by its mark, UTF-16, as Excel
writes them.
"""

import codecs
import io
import re
from collections.abc import Collection, Container
from pathlib import Path

import pandas as pd
from pandas import DataFrame, Series

from gengap.errors import GengapError
from gengap.formats.places import naming

SEPARATORS = (",", ";", "\t")
LARGEST = 200_000_000  # bytes
MOST_COLUMNS = 1_000  # each takes a millisecond
UNNAMED = re.compile(r"(Unnamed: \d+)?")  # what pandas makes of a column without a name
EMPTY = ("", "nan", "NaN")  # no words: "None" may be the value of a hyper-parameter
DECIMAL_COMMA = re.compile(r"^([+-]?\d*),(\d+(?:[eE][+-]?\d+)?)\Z")
TRUTH = {"true": True, "false": False}


def read_csv_table(file: Path, text_in: Collection[str] = ()) -> DataFrame:
    """The rows of a CSV file, columns of numbers or truth values as such, empty cells NaN.

    text_in: columns, in small letters, whose cells stay as they are written.

    Raises: GengapError that names the file where it is no table, has a column twice or no row.
    """
    wrong = "it is no CSV file, in UTF-8 or UTF-16, whose rows have the cells of its header"
    with naming(file, "write it again", wrong):
        text = decoded(file)
        if not text.strip():
            raise GengapError("it is empty; write a header, and a row for each network")
        header = re.sub('"[^"]*"', "", text.lstrip("\r\n").partition("\n")[0])
        separator = max(SEPARATORS, key=header.count)
        if header.count(separator) >= MOST_COLUMNS:
            raise GengapError(f"it has more than {MOST_COLUMNS} columns, which is no table of ours")
        as_written = {"header": None, "dtype": str, "keep_default_na": False}
        cells = pd.read_csv(io.StringIO(text), sep=separator, **as_written)
    cells = cells.map(lambda cell: cell.strip() if isinstance(cell, str) else "")
    cells = cells.loc[(cells != "").any(axis=1), [not UNNAMED.fullmatch(n) for n in cells.iloc[0]]]
    names = cells.iloc[0].tolist()
    if repeated := [name for name in names if names.count(name) > 1]:
        raise GengapError(f"{file} has the column {repeated[0]!r} twice; keep one")
    rows = cells.iloc[1:].set_axis(names, axis=1).reset_index(drop=True)
    if rows.empty:
        raise GengapError(f"{file} has a header and no row below it; write a row for each network")
    if separator != ",":
        rows = rows.map(lambda cell: DECIMAL_COMMA.sub(r"\1.\2", cell))
    return rows.apply(lambda column: column if column.name.lower() in text_in else typed(column))


def decoded(file: Path) -> str:
    """The text of a file in UTF-8, with or without a mark, or in UTF-16 with its mark."""
    if file.stat().st_size > LARGEST:
        raise GengapError(f"it has more than {LARGEST} bytes; a small CSV file is expected")
    content = file.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if marked else "utf-8-sig")


def read_columns(content: bytes, wanted: Container[str]) -> DataFrame:
    """Columns of these names of a table of the papers' authors: commas, UTF-8, types as found."""
    return pd.read_csv(io.BytesIO(content), usecols=lambda name: name in wanted)


def typed(column: Series) -> Series:
    """A column of text as numbers or truth values if all its cells are such, empty ones NaN."""
    present = column[~column.isin(EMPTY)]
    if len(present) and present.str.lower().isin(TRUTH).all():
        return column.str.lower().map(TRUTH)
    filled = column.where(~column.isin(EMPTY))
    try:
        return pd.to_numeric(filled)
    except (ValueError, TypeError, OverflowError):
        return filled
