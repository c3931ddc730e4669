"""Details are computed once, survive a kill, and notice what has changed."""

import pandas as pd
import pyarrow.parquet as pq
import pytest

import gengap
from gengap.errors import GengapError, NotAvailable
from gengap.measures.margin_signatures import margin_signatures, normalized_margins
from gengap.measures.spectra import network_spectra
from gengap.studies.demogen import signature_table
from gengap.tables import details
from gengap.tables.store import default_store, rows_in

CALLS = []
LAST = "right/7"


def norms(model) -> pd.DataFrame:
    """Two rows a model; remembers the call."""
    CALLS.append(model.record["model_id"])
    rows = [
        {
            "model_id": model.record["model_id"],
            "layer": name,
            "norm": layer.weight.detach().norm().item(),
        }
        for name, layer in model.network.named_children()
        if name != "activation"
    ]
    return pd.DataFrame(rows)


def other_norms(model) -> pd.DataFrame:
    return norms(model).assign(norm=0.0)


def sample_sizes(model) -> pd.DataFrame:
    return pd.DataFrame({"model_id": [model.record["model_id"]], "images": len(model.sample[0])})


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The functions above as details, and no calls so far."""
    CALLS.clear()
    made = {name: f"{__name__}:{name}" for name in ("norms", "sample_sizes")}
    monkeypatch.setattr(details, "DETAILS", details.DETAILS | made)


def tables(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_detail_has_its_functions_rows_in_the_order_of_the_index(tiny, tmp_path):
    rows = details.detail_table(tiny, "norms")
    expected = pd.concat([norms(tiny.load(i)) for i in tiny.index()["model_id"]], ignore_index=True)
    pd.testing.assert_frame_equal(rows, expected)


def test_what_is_kept_is_not_computed_again(tiny):
    first = details.detail_table(tiny.select("family == 'left'"), "norms")
    assert len(CALLS) == 4
    again = details.detail_table(tiny, "norms")
    assert len(CALLS) == 8
    pd.testing.assert_frame_equal(again.head(len(first)), first)
    pd.testing.assert_frame_equal(details.detail_table(tiny, "norms"), again)
    assert len(CALLS) == 8


def test_a_killed_run_loses_only_the_model_it_was_at(tiny, monkeypatch):
    load = tiny.load

    def dies_at_the_last(model_id):
        if model_id == LAST:
            raise KeyboardInterrupt
        return load(model_id)

    monkeypatch.setattr(tiny, "load", dies_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        details.detail_table(tiny, "norms")
    monkeypatch.setattr(tiny, "load", load)
    CALLS.clear()
    assert details.detail_table(tiny, "norms")["model_id"].nunique() == 8
    assert CALLS == [LAST]


def test_after_a_run_one_table_is_left_and_no_parts(tiny):
    details.detail_table(tiny, "norms")
    folder = details.folders.data() / "tables"
    (file,) = (name for name in tables(folder) if "norms" in name)
    assert file.endswith(".norms.parquet")


def test_a_run_that_was_killed_while_it_wrote_does_not_block_the_next(tiny):
    """As `kill -9` leaves the folder: the table and a model's rows half written beside it."""
    details.detail_table(tiny.select("hp_seed < 2"), "norms")
    folder = details.folders.data() / "tables"
    (folder / ".123-tiny.norms.parquet").write_bytes(b"PAR1 half of a table")
    (folder / "tiny.norms.parts").mkdir()
    (folder / "tiny.norms.parts" / ".123-0a.parquet").write_bytes(b"PAR1 half")
    CALLS.clear()
    assert details.detail_table(tiny, "norms")["model_id"].nunique() == 8
    assert len(CALLS) == 6


def test_details_and_values_lie_in_one_store_and_leave_each_other_alone(tiny):
    rows = details.detail_table(tiny, "norms")
    values = gengap.measure_table(tiny, "raw_parameter_norm")
    assert len(values) == 8
    pd.testing.assert_frame_equal(details.detail_table(tiny, "norms"), rows)
    store = default_store(tiny)
    assert len(rows_in(store, tiny.name)) == len(rows_in(store, tiny.name, "norms")) == 8
    table = pd.read_parquet(details.folders.data() / "tables" / "tiny.norms.parquet")
    assert {"record", "weights", "source"} < set(table) and len(table) == len(rows)


def test_a_table_that_was_deleted_is_written_again_without_computing(tiny):
    details.detail_table(tiny, "norms")
    file = details.table_file(tiny, "norms")
    before = file.read_bytes()
    file.unlink()
    CALLS.clear()
    details.detail_table(tiny, "norms")
    assert file.read_bytes() == before and not CALLS


@pytest.mark.parametrize("at_once", [1, 3, 4, 100])
def test_the_parts_of_a_table_have_whole_models_and_together_the_rows_of_a_selection(
    tiny, monkeypatch, at_once
):
    """Of two rows a model: three at once end in the middle of one."""
    monkeypatch.setattr(details, "AT_ONCE", at_once)
    some = tiny.select("hp_seed != 3")
    expected = details.detail_table(some, "norms", columns=["norm"])
    details.detail_table(tiny, "norms")
    parts = list(details.detail_parts(some, "norms", ["norm"]))
    assert all((part.groupby("model_id").size() == 2).all() for part in parts)
    assert len(parts) >= 16 / (at_once + 1)
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), expected)


def test_a_collection_without_rows_has_no_parts(tiny):
    with pytest.warns(UserWarning, match="have no rows"):
        assert (
            list(details.detail_parts(tiny.select("family == 'right'"), "sample_sizes", [])) == []
        )


def test_of_a_table_the_asked_columns_and_epochs_alone_are_read(tiny):
    """All else in the file is overwritten, so that whoever reads it fails."""
    tiny._index.loc[4:, "epoch"] = 2
    second = tiny.select("epoch == 2")
    everything = details.detail_table(tiny, "norms")
    file = details.table_file(tiny, "norms")
    spoilt, written = bytearray(file.read_bytes()), pq.ParquetFile(file).metadata
    assert written.num_row_groups == 2
    for group in (0, 1):
        for column in map(written.row_group(group).column, range(written.num_columns)):
            if group == 0 or column.path_in_schema in ("layer", details.EPOCH):
                first = column.dictionary_page_offset or column.data_page_offset
                last = first + column.total_compressed_size
                spoilt[first:last] = bytes(column.total_compressed_size)
    file.write_bytes(spoilt)
    default_store(tiny).unlink()

    rows = details.detail_table(second, "norms", columns=["norm"])
    expected = everything.tail(8)[["model_id", "norm"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, expected)
    parts = details.detail_parts(second, "norms", ["norm"])
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), expected)
    assert list(details.detail_table(second, "norms", columns=[])) == ["model_id"]
    assert len(CALLS) == 8
    for others in (tiny.select("epoch == 1"), tiny):
        with pytest.raises(GengapError, match="norms.parquet cannot be read"):
            details.detail_table(others, "norms", columns=["norm"])


def test_a_table_of_an_earlier_version_is_read_whatever_the_epoch(tiny):
    rows = details.detail_table(tiny, "norms")
    file = details.table_file(tiny, "norms")
    pd.read_parquet(file).drop(columns=details.EPOCH).to_parquet(file, index=False)
    default_store(tiny).unlink()
    pd.testing.assert_frame_equal(details.detail_table(tiny, "norms"), rows)
    assert len(CALLS) == 8


def test_an_epoch_that_is_not_known_is_one_too(tiny):
    tiny._index["epoch"] = tiny._index["epoch"].astype(float)
    tiny._index.loc[2:3, "epoch"] = float("nan")
    rows = details.detail_table(tiny, "norms")
    default_store(tiny).unlink()
    pd.testing.assert_frame_equal(details.detail_table(tiny, "norms"), rows)
    assert rows["model_id"].nunique() == 8 and len(CALLS) == 8


def test_rows_of_an_epoch_join_those_of_another_and_stale_ones_go(tiny, monkeypatch):
    tiny._index.loc[4:, "epoch"] = 2
    details.detail_table(tiny.select("epoch == 2"), "norms")
    details.detail_table(tiny.select("epoch == 1"), "norms")
    file = details.table_file(tiny, "norms")
    assert list(pd.read_parquet(file)["model_id"].unique()) == list(tiny.index()["model_id"])
    changed = details.DETAILS | {"norms": f"{__name__}:other_norms"}
    monkeypatch.setattr(details, "DETAILS", changed)
    details.detail_table(tiny.select("epoch == 1"), "norms")
    assert list(pd.read_parquet(file)["model_id"].unique()) == list(tiny.index()["model_id"][:4])


def test_a_fresh_clone_takes_its_rows_from_the_table_and_writes_nothing(tiny):
    rows = details.detail_table(tiny, "norms")
    default_store(tiny).unlink()
    CALLS.clear()
    pd.testing.assert_frame_equal(details.detail_table(tiny, "norms"), rows)
    assert not CALLS and not default_store(tiny).exists()


def test_two_workers_give_the_same_rows_as_one(tiny, monkeypatch):
    monkeypatch.setattr("gengap.tables.engine.SECONDS_ALONE", 1e-9)
    spectra = details.detail_table(tiny, "spectra", workers=2)
    default_store(tiny).unlink()
    details.table_file(tiny, "spectra").unlink()
    pd.testing.assert_frame_equal(details.detail_table(tiny, "spectra"), spectra, check_exact=True)


def test_rows_of_changed_code_are_computed_again(tiny, monkeypatch):
    details.detail_table(tiny, "norms")
    changed = details.DETAILS | {"norms": f"{__name__}:other_norms"}
    monkeypatch.setattr(details, "DETAILS", changed)
    assert (details.detail_table(tiny, "norms")["norm"] == 0).all()


def test_rows_of_a_network_trained_anew_are_computed_again(tiny):
    details.detail_table(tiny, "norms")
    CALLS.clear()
    tiny._index.loc[2, "test_accuracy"] += 0.01
    assert details.detail_table(tiny, "norms")["model_id"].nunique() == 8
    assert [tiny.index()["model_id"][2]] == CALLS


def test_models_without_a_sample_have_no_rows_and_a_warning_says_why(tiny):
    with pytest.warns(UserWarning, match="4 models have no rows: the family right has no images"):
        rows = details.detail_table(tiny, "sample_sizes")
    assert list(rows["model_id"]) == list(tiny.index()["model_id"][:4])
    with pytest.warns(UserWarning, match="4 models have no rows"):
        details.detail_table(tiny, "sample_sizes")


def test_a_model_that_cannot_be_read_or_fails_is_left_out_with_its_reason(tiny, monkeypatch):
    def bad(record):
        if record["model_id"] == LAST:
            raise OSError("a bad sector")
        return read(record)

    read = tiny.read_network
    monkeypatch.setattr(tiny, "read_network", bad)
    with pytest.warns(UserWarning, match="1 models have no rows: failed: .* a bad sector"):
        rows = details.detail_table(tiny, "norms")
    assert rows["model_id"].nunique() == 7
    assert rows.attrs["failed"] == 1
    monkeypatch.setattr(tiny, "read_network", read)
    rows = details.detail_table(tiny, "norms")
    assert (rows["model_id"].nunique(), rows.attrs["failed"]) == (8, 0)
    monkeypatch.setattr(f"{__name__}.sample_sizes", lambda model: 1 / 0)
    monkeypatch.setitem(details.DETAILS, "broken", f"{__name__}:sample_sizes")
    with pytest.warns(UserWarning, match="8 models have no rows: failed: ZeroDivisionError"):
        assert details.detail_table(tiny, "broken").attrs["failed"] == 8


def test_a_damaged_table_and_an_unknown_detail_are_one_sentence(tiny):
    details.detail_table(tiny, "norms")
    (file,) = (details.folders.data() / "tables").glob("*.norms.parquet")
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(GengapError, match="norms.parquet cannot be read .* delete it"):
        details.detail_table(tiny, "norms")
    with pytest.raises(GengapError, match="no detail 'norm'; there are: margins, spectra, norms"):
        details.detail_table(tiny, "norm")


def test_margin_signatures_cover_the_inputs_the_hidden_stages_and_the_logits(tiny):
    rows = margin_signatures(tiny.load("left/0"))
    assert list(rows["stage"].unique()) == ["inputs", "h1", "activation", "logits"]
    assert len(rows) == 4 * 2 * 5 and (rows["model_id"] == "left/0").all()
    with pytest.raises(NotAvailable):
        margin_signatures(tiny.load(LAST))


def test_the_signature_table_holds_the_quartiles_of_the_normalized_margins(tiny):
    model = tiny.load("left/0")
    rows = normalized_margins(model)
    assert len(rows) == 3 * len(model.sample[0])
    features = signature_table(margin_signatures(model), log=False)
    for stage, margins in rows.groupby("stage")["margin"]:
        median = margins[margins > 0].quantile(0.5)
        assert features.loc["left/0", (stage, "median")] == pytest.approx(median, rel=1e-5)


def test_the_spectra_are_those_of_each_network_under_its_id(tiny):
    rows = details.detail_table(tiny, "spectra")
    assert rows.columns[0] == "model_id"
    for model_id, found in rows.groupby("model_id"):
        expected = network_spectra(tiny.load(model_id).network)
        found = found.drop(columns="model_id").reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected)
    assert list(rows["model_id"].unique()) == list(tiny.index()["model_id"])
