"""Where the project's files lie."""

import os
from pathlib import Path

import pooch


def repository() -> Path:
    """The checkout that this package is installed from (editable installation)."""
    return Path(__file__).resolve().parents[2]


def data() -> Path:
    """Replicas, tables and published numbers: GENGAP_DATA, or `data` in the checkout."""
    return Path(os.environ.get("GENGAP_DATA") or repository() / "data")


def cache() -> Path:
    """Downloads: GENGAP_CACHE, or the user's cache folder."""
    return Path(os.environ.get("GENGAP_CACHE") or pooch.os_cache("gengap"))
