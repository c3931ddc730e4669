"""Files and folders on disk or in a zip file, and errors that name them."""

import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gengap.errors import GengapError

Place = Path | zipfile.Path  # a folder or file, on disk or in a zip file
DAMAGE = (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_json(file: Place) -> Any:
    """What a JSON file holds; GengapError that names it where it is missing or damaged."""
    with naming(file):
        return json.loads(file.read_bytes())


@contextmanager
def naming(file: Place) -> Iterator[Place]:
    """Names the file, or the zip file and its member, in whatever goes wrong while it is read."""
    try:
        yield file
    except GengapError as error:
        raise GengapError(f"{file}: {error}") from error
    except (*DAMAGE, TypeError, AttributeError) as error:
        reason = "it is missing" if isinstance(error, FileNotFoundError) else repr(error)
        raise GengapError(f"{file} cannot be read ({reason}); get it again") from error
