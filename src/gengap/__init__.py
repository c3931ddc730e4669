"""Predicting generalization: collections of trained models, measures of them, and tables."""

from pkgutil import resolve_name

# Where each public name lives. They are imported when first used: PyTorch takes seconds, and
# `gengap --help` must not wait for it.
_HOMES = {
    "open_collection": "gengap.collection",
    "Collection": "gengap.collection",
    "Model": "gengap.model",
    "measure": "gengap.measures",
    "MEASURES": "gengap.measures",
    "measure_table": "gengap.tables.values",
    "GengapError": "gengap.errors",
    "NotAvailable": "gengap.errors",
}

__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'gengap' has no attribute {name!r}")
    return resolve_name(f"{_HOMES[name]}:{name}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
