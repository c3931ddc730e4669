"""Where the project's files lie."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import platformdirs

from gengap.errors import GengapError, reason_of


def repository() -> Path:
    """The checkout that this package is installed from (editable installation)."""
    return Path(__file__).resolve().parents[2]


def data() -> Path:
    """Replicas, tables and published numbers: GENGAP_DATA, or `data` in the checkout."""
    return Path(os.environ.get("GENGAP_DATA") or repository() / "data")


def cache() -> Path:
    """Downloads: GENGAP_CACHE, or the user's cache folder; absolute."""
    named = os.environ.get("GENGAP_CACHE") or platformdirs.user_cache_dir("gengap")
    return Path(named).absolute()


def write_atomically(file: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a temporary file beside `file`, then it is renamed: all of it, or nothing."""
    if file.exists() and not file.is_file():  # a device would be replaced
        raise GengapError(f"{file} is no plain file and is not replaced; give another name")
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{os.getpid()}-{file.name}")
    try:
        write(temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def read_table(file: Path | BinaryIO, name: str | None = None) -> pd.DataFrame:
    """A parquet file; GengapError that names it where it cannot be read."""
    with reading(name or file):
        return pd.read_parquet(file)


@contextmanager
def reading(table: Path | BinaryIO | str) -> Iterator[None]:
    """Within it, whatever a damaged parquet file raises is a GengapError with its name."""
    try:
        yield
    except GengapError:
        raise
    except Exception as error:  # damaged bytes raise many kinds
        raise GengapError(
            f"the table {table} cannot be read ({reason_of(error)}); delete it or fetch it again"
        ) from error
