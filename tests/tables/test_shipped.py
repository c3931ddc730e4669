"""The tables that the project ships are whole, current, and what the code computes now."""

import copy
from importlib import import_module

import pandas as pd
import pytest
import torch
from drawn import drawn

from gengap.collection import COLLECTIONS, Collection, default_root, last_epoch, open_collection
from gengap.measures import MEASURES
from gengap.measures.margin_signatures import margin_signatures
from gengap.measures.spectra import spectra_rows
from gengap.model import Model
from gengap.replicas import pgdl
from gengap.tables import details
from gengap.tables.identity import Versions, source_hash, versions_now
from gengap.tables.store import table_file
from gengap.tables.values import finished, pending_values

SHIPPED = [name for name in COLLECTIONS if default_root(name).is_dir()]
# Most networks do not come to 0.01 nats where images are augmented.
MISSED = {
    "pgdl": {f"task{task}_fashion_mnist: share that stopped at {pgdl.STOP}" for task in (6, 9)},
}
QUICK = 2  # seconds: slower values are not computed again here


def versions(collection: Collection) -> Versions:
    return versions_now(collection, {name: source_hash(MEASURES[name]) for name in MEASURES})


@pytest.fixture
def no_store(tmp_path):
    """Where no working store is: the shipped tables alone count."""
    return tmp_path / "none.sqlite"


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_table_has_every_measure_of_every_network_as_they_are_now(name, no_store):
    """At the last epoch; a new measure is added by `gengap measure all`."""
    collection = open_collection(name)
    table = no_store.with_name(table_file(collection).name)
    table.symlink_to(table_file(collection))
    rows = finished(collection, no_store, versions(collection))
    assert not pending_values(last_epoch(collection.index()), MEASURES, rows, retry=False)


@pytest.mark.parametrize("name", SHIPPED)
def test_no_row_of_a_shipped_table_is_of_other_code_weights_or_records(name):
    collection = open_collection(name)
    rows = pd.read_parquet(table_file(collection))
    assert set(rows["measure"]) <= set(MEASURES)
    assert versions(collection).are_current(rows).all()


def rounded_otherwise(model, copies=9, size=1e-6):
    """The network with weights that differ by this share of them, as often."""
    for seed in range(copies):
        generator, network = torch.Generator().manual_seed(seed), copy.deepcopy(model.network)
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(1 + size * torch.randn(weight.shape, generator=generator))
        sample = model.sample
        yield Model(network, model.record, model.initial_weights, lambda: sample)  # noqa: B023


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_values_are_those_that_the_code_computes_now(name, offline):
    collection = open_collection(name)
    rows = pd.read_parquet(table_file(collection)).query("note == ''")
    rows = rows[rows["seconds"] < QUICK]
    last = rows.groupby("family")["model_id"].last()
    if name == "cnnzoo":  # the others' images are not embedded
        last = last[["fashion_mnist"]]
    rows = rows[rows["model_id"].isin(drawn(f"shipped values of {name}", last))]
    for model_id, values in rows.groupby("model_id"):
        model = collection.load(model_id)
        for measure, value in zip(values["measure"], values["value"], strict=True):
            found = [MEASURES[measure](model)]
            if found[0] != pytest.approx(value, rel=1e-4):
                # Rounding, another on each kind of processor, decides on which side of a ReLU a
                # unit falls: the value must be one of networks that differ by such rounding.
                found += [MEASURES[measure](other) for other in rounded_otherwise(model)]
            low, high = min(found), max(found)
            assert low - 1e-4 * abs(low) <= value <= high + 1e-4 * abs(high), measure


@pytest.mark.parametrize(
    ("name", "detail", "function", "rtol"),
    [("demogen", "margins", margin_signatures, 1e-3), ("pgdl", "spectra", spectra_rows, 1e-4)],
)
def test_shipped_details_are_whole_and_those_that_the_code_computes_now(
    name, detail, function, rtol, monkeypatch
):
    collection = open_collection(name)
    monkeypatch.setattr(details, "_compute", None)  # nothing is missing
    shipped = details.detail_table(collection, detail)
    assert list(shipped["model_id"].unique()) == list(collection.index()["model_id"])
    for model_id in collection.index().groupby("family")["model_id"].last():
        rows = shipped[shipped["model_id"] == model_id].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, function(collection.load(model_id)), rtol=rtol)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_replica_is_in_the_regime_of_its_paper(name):
    found = import_module(f"gengap.replicas.{name}").hallmarks(open_collection(name).index())
    assert set(found["hallmark"][~found["met"]]) == MISSED.get(name, set())
