"""What `gengap measure` and `gengap details` would have kept of all networks, made up.

Of some families one network is measured in earnest, so that every measure meets what is special
there; all other values are made up. Chapters then find all values in their tables,
as on a machine that has computed them, and the rehearsal takes minutes.
"""

import io
import re

import numpy as np
import pandas as pd
import pytest

from gengap.collection import Collection, last_epoch
from gengap.evaluation.tasks import gap_of
from gengap.folders import repository
from gengap.measures import MEASURES
from gengap.measures.margin_signatures import OUTPUT, STATISTICS
from gengap.measures.weight_features import ALL_LAYER_STATISTICS
from gengap.studies import zoo, zoo_predictors
from gengap.studies.published import reported
from gengap.tables.details import DETAILS, resolve_name
from gengap.tables.identity import source_hash, versions_now
from gengap.tables.store import PAYLOAD, default_store, keep
from gengap.tables.values import measure_table

STAGES = ("inputs", "h1", "h2", "h3", OUTPUT)


def named_measures() -> list[str]:
    """Those that a chapter or a published score names."""
    chapters = (repository() / "notebooks").glob("*.ipynb")
    words = {word for file in chapters for word in re.findall(r"\w+", file.read_text())}
    return sorted(MEASURES.keys() & {*words, *reported("pgdl_scores")["name"]})


def keep_measures(collection: Collection, measured: tuple[str, ...] = ()) -> None:
    """A value of the `named_measures` for every network after its last epoch.

    measured: families of which one network is measured in earnest, for all that there is to say.
    In PGDL, of which a chapter asks for all measures, the others are there and have no value.
    """
    index, rng = last_epoch(collection.index()), np.random.default_rng(3)
    index = index[np.isfinite(gap_of(index))]
    chosen = index[index["family"].isin(measured)]
    examples = chosen.groupby("family")["model_id"].first().tolist()
    if examples:
        measure_table(collection.select(f"model_id in {examples}"))
    known = named_measures()
    if collection.name == "demogen":  # of hundreds of networks in a family
        known = sorted({*known[::4], "jacobian_norm", "spectrally_normalized_margin"})
    others = [name for name in MEASURES if name not in known and collection.name == "pgdl"]
    slopes = dict(zip(known, np.linspace(-1, 1, len(known)))) | dict.fromkeys(others)
    versions = versions_now(collection, {name: source_hash(MEASURES[name]) for name in slopes})
    models = versions.models.to_dict("index")
    places = index.assign(gap=gap_of(index)).groupby("family")["gap"].rank(pct=True)
    weights_are_kept = collection.name in ("cnnzoo", "pgdl")
    lacking = [name for name in known if "initial" in name and not weights_are_kept]
    rows = (
        {
            "collection": collection.name,
            "family": family,
            "model_id": model_id,
            "measure": name,
            "value": np.nan if note else slope * place + 0.2 * rng.standard_normal(),
            "seconds": 0.0,
            "note": note,
            **models[model_id],
            "source": versions.sources[name],
        }
        for model_id, family, place in zip(index["model_id"], index["family"], places)
        if model_id not in examples
        for name, slope in slopes.items()
        for note in ["left out of the rehearsal" if slope is None or name in lacking else ""]
    )
    for _ in keep(default_store(collection), rows):
        pass
    first = f"model_id == {index['model_id'].iloc[0]!r}"
    measure_table(collection.select(first), known[:1])  # exports the table


def keep_margins(demogen: Collection) -> None:
    """Margin signatures of every network: the larger the gap, the smaller the margins."""
    index, rng = demogen.index(), np.random.default_rng(4)
    versions = versions_now(demogen, {"margins": source_hash(resolve_name(DETAILS["margins"]))})
    rows = (
        {
            "collection": demogen.name,
            "family": family,
            "model_id": model_id,
            "measure": "margins",
            "value": None,
            "seconds": None,
            "note": "",
            PAYLOAD: as_parquet(made_up_signatures(model_id, gap, rng)),
            **versions.of(model_id, "margins"),
        }
        for model_id, family, gap in zip(index["model_id"], index["family"], gap_of(index))
    )
    for _ in keep(default_store(demogen), rows):
        pass


def keep_fits(collection: Collection, patch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    """All fits of chapter 1, with a few trees and epochs under the names of the published many.

    sizes: of its learning curve.
    """
    made_by = (zoo._predictions, zoo._candidate, zoo._curve_point, zoo._transfers, zoo._gains)
    sources = {function: source_hash(function) for function in (*made_by, zoo._problems)}
    index, weights = collection.last_networks()
    fewer = index.drop(index.groupby("family").tail(1).index)
    kept = {"jobs": 1, "table": f"{collection.table_name}.fits"}
    one = {"inputs": [ALL_LAYER_STATISTICS], "predictors": ["lgbm"]}
    with patch.context() as few:
        few.setattr(zoo, "source_hash", sources.get)
        few.setattr(zoo_predictors, "TREE_PATIENCE", 1)
        few.setattr(zoo_predictors, "EPOCHS", 1)
        fits = zoo.Fits(weights, index, **kept)
        for make in (fits.predictions, fits.transfers, fits.selections, fits.importances):
            make()
        fits.learning_curve(sizes, repeats=1)
        fits.predictions(inputs=one["inputs"], predictors=["dnn"], tuned_for="mnist")
        zoo.Fits(weights[fewer.index], fewer, **kept).predictions(**one)
        for seed in range(1, 5):
            zoo.Fits(weights, index, seed=seed, **kept).predictions(**one)


def made_up_signatures(model_id: str, gap: float, rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for place, stage in enumerate(STAGES):
        level = np.exp(-4 * gap + 0.2 * place + 0.1 * rng.standard_normal())
        for names in STATISTICS.values():
            for step, name in enumerate(names):
                value = level * (1 + 0.5 * step + 0.05 * rng.random())
                kind = next(kind for kind, known in STATISTICS.items() if name in known)
                rows.append((model_id, stage, kind, name, value, 2.0, 25, int(40 * gap), ""))
    columns = ["model_id", "stage", "kind", "statistic", "value"]
    return pd.DataFrame(rows, columns=[*columns, "normalizer", "images", "dropped", "note"])


def as_parquet(rows: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.to_parquet(buffer, index=False)
    return buffer.getvalue()
