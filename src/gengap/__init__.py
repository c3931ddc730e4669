"""Predicting generalization: collections of trained models, measures of them, and tables.

The names that users call are here; deeper paths may change from version to version.
"""

from pkgutil import resolve_name

# Where each public name lives. They are imported when first used: PyTorch takes seconds, and
# `gengap --help` must not wait for it.
_HOMES = {
    # collections and their models
    "open_collection": "gengap.collection",
    "Collection": "gengap.collection",
    "Model": "gengap.model",
    # measures: a number a model
    "measure": "gengap.measures",
    "MEASURES": "gengap.measures",
    "measure_table": "gengap.tables.values",
    "detail_table": "gengap.tables.details",
    # what measures and chapters are made of
    "margin_distribution": "gengap.measures.margins",
    "total_variation": "gengap.measures.margins",
    "layer_spectra": "gengap.measures.spectra",
    "weight_statistics": "gengap.measures.weight_features",
    "per_image_standardization": "gengap.formats.images",
    # scores of measures
    "conditional_mutual_information": "gengap.evaluation.scores",
    # what goes wrong
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
