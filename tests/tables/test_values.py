import asyncio
import contextlib
import dataclasses
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import gengap
from gengap.measures import MEASURES
from gengap.submission.measure_file import measures_in
from gengap.tables import store as table
from gengap.tables.details import detail_table
from gengap.tables.identity import source_hash
from gengap.tables.values import measure_table
from gengap.tables.work import OverBudget


@pytest.fixture
def counted(monkeypatch):
    """A measure that remembers on which models it was called."""
    monkeypatch.setattr("gengap.measures.MEASURES", registry := dict(MEASURES))
    monkeypatch.setattr("gengap.tables.values.MEASURES", registry)
    calls = []

    @gengap.measure
    def counted(model) -> float:
        calls.append(model.record["model_id"])
        return len(calls)

    return calls


def kept(store: Path) -> dict[tuple, dict]:
    """The rows committed to a store, by model and measure, NaN as None."""
    with contextlib.closing(sqlite3.connect(store)) as connection:
        made = connection.execute("SELECT * FROM sqlite_master").fetchall()
        found = connection.execute("SELECT * FROM computed").fetchall() if made else []
    rows = [dict(zip(table.NAMES, row, strict=True)) for row in found]
    return {(row["model_id"], row["measure"]): row for row in rows}


def without_seconds(rows: dict[tuple, dict]) -> dict[tuple, dict]:
    return {key: {**row, "seconds": None} for key, row in rows.items()}


# --- what a table holds


def test_a_table_has_a_row_per_model_and_measure_equal_to_the_measure_itself(tiny):
    rows = measure_table(tiny)
    assert list(rows.columns) == table.COLUMNS
    assert len(rows) == len(tiny.index()) * len(MEASURES)
    for _, row in rows[rows["note"] == ""].iterrows():
        assert row["value"] == MEASURES[row["measure"]](tiny.load(row["model_id"]))
    assert (rows["seconds"] >= 0).all()


def test_what_a_model_lacks_is_nan_with_the_reason(tiny):
    rows = measure_table(tiny).set_index(["family", "measure"])
    lacking = rows.loc[("right", "inverse_margin")]
    assert lacking["value"].isna().all()
    assert set(lacking["note"]) == {"the family right has no images here"}
    assert rows["value"].isna().equals(rows["note"] != "")


def test_a_selection_gives_its_own_rows_and_keeps_all_in_the_file(tiny, data_folder):
    measure_table(tiny, "raw_parameter_norm")
    rows = measure_table(tiny.select("family == 'left'"), ["raw_parameter_norm"])
    assert list(rows["family"].unique()) == ["left"] and len(rows) == 4
    assert len(pd.read_parquet(data_folder / "tables" / "tiny.parquet")) == 8


def test_infinite_values_and_nan_come_back_exactly(tiny, counted, monkeypatch):
    values = iter([np.inf, -np.inf, np.nan, 1e-300, 0.1, -0.0, 5.0, 1 / 3])

    def counted(model):
        return next(values)

    monkeypatch.setitem(gengap.measures.MEASURES, "counted", counted)
    for _ in range(2):
        rows = measure_table(tiny, "counted")
        expected = [np.inf, -np.inf, np.nan, 1e-300, 0.1, -0.0, 5.0, 1 / 3]
        np.testing.assert_array_equal(rows["value"], expected)
        assert list(rows["note"][rows["value"].isna()]) == ["the measure returned NaN"]


@pytest.mark.parametrize("value", ["0.5", np.complex128(3 + 1j), torch.tensor(3 + 0j)])
def test_what_is_no_real_number_is_no_value(tiny, monkeypatch, value):
    monkeypatch.setitem(gengap.measures.MEASURES, "counted", lambda model: value)
    rows = measure_table(tiny, "counted")
    assert rows["value"].isna().all()
    assert rows["note"].str.startswith("failed: it returned no number but ").all()


def test_a_measure_that_fails_is_a_row_that_says_so_and_the_others_are_kept(tiny, counted):
    @gengap.measure
    def fragile(model) -> float:
        if model.record["hp_seed"] == 2:
            sys.exit(0)
        return 1 / (3 - int(model.record["hp_seed"]))

    rows = measure_table(tiny, ["counted", "fragile"])
    assert len(kept(table.default_store(tiny))) == 16 and len(counted) == 8
    notes = rows[rows["note"] != ""].set_index("model_id")["note"]
    assert list(notes.index) == ["left/2", "left/3"]
    assert notes["left/2"].startswith("failed: SystemExit: 0 (test_values.py line ")
    assert notes["left/3"].startswith("failed: ZeroDivisionError: division by zero (test_values")


def test_what_a_measure_changes_reaches_no_other(tiny, counted):
    expected = measure_table(tiny, "raw_parameter_norm")["value"].tolist()

    @gengap.measure
    def careless(model) -> float:
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        random.seed(7)
        return torch.rand(()).item()

    @gengap.measure
    def spoiling(model) -> float:
        for weight in model.network.parameters():
            weight.data.zero_()
        return 1.0

    @gengap.measure
    def afterwards(model) -> float:
        assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
        return MEASURES["raw_parameter_norm"](model)

    state = random.getstate()
    rows = measure_table(tiny, ["careless", "spoiling", "afterwards"])
    by_measure = rows.set_index("measure")
    assert by_measure.loc["careless", "value"].nunique() == 1  # each model with the same seed
    assert by_measure.loc["spoiling", "note"].str.startswith("failed: it changed the network").all()
    assert by_measure.loc["afterwards", "value"].tolist() == expected
    assert random.getstate() == state


def set_hook(model):
    model.network.register_forward_hook(lambda *_: torch.zeros(1))


SPOILS = {
    "": [
        lambda model: os.environ.update(OMP_NUM_THREADS="7"),
        lambda model: os.chdir("/"),
        lambda model: warnings.simplefilter("error"),
        lambda model: np.seterr(all="raise"),
        lambda model: torch.set_default_device("meta"),
        lambda model: torch.use_deterministic_algorithms(True),
        lambda model: setattr(torch.nn.Linear, "forward", lambda self, inputs: inputs * 0),
        lambda model: setattr(torch.nn.functional, "linear", lambda *_: torch.zeros(1)),
        lambda model: setattr(torch, "svd", None),
    ],
    "failed: it changed the network's modules": [
        set_hook,
        lambda model: model.network.add_module("more", torch.nn.ReLU().eval()),
        lambda model: setattr(model.network, "forward", len),
    ],
    "failed: it changed the model's record": [
        lambda model: model.record.update({"train_accuracy": -1.0})
    ],
    "failed: CancelledError": [lambda model: (_ for _ in ()).throw(asyncio.CancelledError())],
}


@pytest.mark.parametrize(
    "note, spoil", [(note, spoil) for note, spoils in SPOILS.items() for spoil in spoils]
)
def test_the_next_measure_finds_process_and_model_as_they_were(tiny, counted, note, spoil):
    def seen(model):
        forward = model.network(torch.ones(1, *model.sample[0].shape[1:])).sum().item()
        return forward + model.record["train_accuracy"] + torch.linalg.norm(torch.ones(3)).item()

    @gengap.measure
    def before(model) -> float:
        return seen(model)

    @gengap.measure
    def spoiling(model) -> float:
        spoil(model)
        return 0.5

    @gengap.measure
    def then(model) -> float:
        assert np.geterr()["over"] == "warn" and os.environ.get("OMP_NUM_THREADS") == threads
        assert os.getcwd() == folder and warnings.filters == filters
        return seen(model)

    threads, folder, filters = os.environ.get("OMP_NUM_THREADS"), os.getcwd(), warnings.filters[:]
    rows = measure_table(tiny.select("hp_seed == 0"), ["before", "spoiling", "then"])
    rows = rows.set_index("measure")
    told = rows.loc["spoiling", "note"]
    assert told.startswith(note) if note else told == ""
    assert (
        rows.loc["then", "note"] == "" and rows.loc["then", "value"] == rows.loc["before", "value"]
    )


REPLACED_BY_PYTORCH = """
import torch
from gengap.tables.process import Process, seeded_process

first = torch.manual_seed
with seeded_process(Process()):
    import torch._dynamo  # as the first derivative of a process by torch.func does
own = torch.manual_seed
assert own is not first and torch.jit._builtins._find_builtin(own) == "aten::manual_seed"
with seeded_process(process := Process()):
    torch.manual_seed = print
assert process.changed and torch.manual_seed is own
"""


def test_a_function_that_pytorch_itself_replaces_stays_since_it_is_known_by_its_id():
    # Of ten new processes three could not compute fisher_rao when the id went to another function.
    told = subprocess.run([sys.executable, "-c", REPLACED_BY_PYTORCH], capture_output=True)
    assert told.returncode == 0, told.stderr.decode()


def test_what_the_model_kept_of_a_changed_process_is_forgotten(tiny, counted):
    @gengap.measure
    def before(model) -> float:
        return float(MEASURES["inverse_margin"](dataclasses.replace(model)))

    @gengap.measure
    def patching(model) -> float:
        torch.nn.Linear.forward = lambda self, inputs: inputs[:, :3] * 7
        return model.logits.sum().item()

    @gengap.measure
    def then(model) -> float:
        return float(MEASURES["inverse_margin"](model))

    rows = measure_table(tiny, ["before", "patching", "then"]).pivot(
        index="model_id", columns="measure", values="value"
    )
    assert rows["before"].notna().any()
    assert np.array_equal(rows["before"], rows["then"], equal_nan=True)


def test_a_measure_that_forks_computes_each_value_once(tiny, counted, tmp_path):
    @gengap.measure
    def forking(model) -> float:
        os.fork()
        with open(tmp_path / "calls", "a") as file:
            file.write(f"{os.getpid()}\n")
        return 1.0

    rows = measure_table(tiny.select("hp_seed == 0"), ["forking", "counted"])
    assert rows["value"].notna().all() and len(counted) == 1
    written = (tmp_path / "calls").read_text().split()
    assert len(written) == 2 and written.count(str(os.getpid())) == 1


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (gengap.NotAvailable("left/2 diverged"), "left/2 diverged"),
        (
            gengap.GengapError("two.pt is damaged; get it again"),
            "failed: two.pt is damaged; get it again",
        ),
    ],
)
def test_a_model_that_cannot_be_loaded_is_nan_with_the_reason(tiny, monkeypatch, error, note):
    read = tiny.read_network

    def lacking(record):
        if record["hp_seed"] == 2:
            raise error
        return read(record)

    monkeypatch.setattr(tiny, "read_network", lacking)
    rows = measure_table(tiny, "raw_parameter_norm")
    assert list(rows["note"]) == ["", "", note, "", "", "", "", ""]


# --- what is computed again, and what is not


def test_finished_rows_are_not_computed_again(tiny, counted):
    first = measure_table(tiny, "counted")
    assert len(counted) == 8
    pd.testing.assert_frame_equal(measure_table(tiny, "counted"), first)
    assert len(counted) == 8


def test_a_fresh_clone_takes_its_values_from_the_parquet_file_and_writes_nothing(tiny, counted):
    first = measure_table(tiny, "counted")
    store = table.default_store(tiny)
    store.unlink()
    pd.testing.assert_frame_equal(measure_table(tiny, "counted"), first)
    assert len(counted) == 8 and not store.exists()


def test_a_model_trained_anew_under_its_old_name_is_measured_again(tiny, counted):
    measure_table(tiny, "counted")
    anew = gengap.open_collection("tiny")
    read = anew.read_index
    anew.read_index = lambda: read().assign(train_loss=lambda t: t["train_loss"] + (t.index == 2))
    rows = measure_table(anew, "counted")
    assert counted[8:] == ["left/2"]
    assert rows.loc[2, "value"] == 9
    assert list(measure_table(tiny, "counted")["value"]) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_two_roots_of_a_collection_never_share_rows_even_in_one_store(tiny, counted, tmp_path):
    store, other = tmp_path / "both.sqlite", tmp_path / "published"
    other.mkdir()
    published = gengap.open_collection("tiny", other)
    assert table.default_store(published) != table.default_store(tiny)
    read = published.read_index
    published.read_index = lambda: read().assign(test_loss=7.0)
    ours = measure_table(tiny, "counted", store=store)
    theirs = measure_table(published, "counted", store=store)
    assert len(counted) == 16 and not set(ours["value"]) & set(theirs["value"])
    pd.testing.assert_frame_equal(measure_table(tiny, "counted", store=store), ours)
    assert len(counted) == 16


def test_a_measure_whose_code_changed_is_computed_again(tiny, counted):
    def version(text):
        Path(tiny.root / "mine.py").write_text(text)
        namespace = {}
        exec(compile(text, tiny.root / "mine.py", "exec"), namespace)
        gengap.measures.MEASURES["mine"] = namespace["mine"]
        return list(measure_table(tiny, "mine")["value"].unique())

    assert version("def mine(model):\n    return 1.0\n") == [1.0]
    assert version("def mine(model):\n    return 2.0\n") == [2.0]


def test_only_the_code_of_a_measure_counts_not_how_it_is_told():
    def plain(model, *, power=2):
        return model**power

    told = plain

    def plain(model, *, power=2):
        """A docstring, and a comment."""
        return model**power  # here

    assert source_hash(told) == source_hash(plain) != ""

    def plain(model, *, power=3):
        return model**power

    assert source_hash(told) != source_hash(plain)
    assert source_hash(eval("lambda model: 1")) == ""


def test_what_was_not_available_is_tried_again_only_on_request(tiny, monkeypatch):
    before = measure_table(tiny, "inverse_margin")
    assert before["value"].isna().sum() == 4
    monkeypatch.setattr(type(tiny), "read_sample", lambda self, record: sample())
    tiny.forget_samples()
    assert measure_table(tiny, "inverse_margin")["value"].isna().sum() == 4
    after = measure_table(tiny, "inverse_margin", retry=True)
    expected = [
        gengap.measures.MEASURES["inverse_margin"](m) for m in map(tiny.load, after["model_id"])
    ]
    assert list(after["value"]) == expected
    assert (after["seconds"][:4] == before["seconds"][:4]).all()


def sample():
    import tiny_collection

    return tiny_collection.sample()


# --- the files


def test_an_unchanged_table_is_not_written_and_a_rebuilt_one_has_the_same_bytes(tiny, data_folder):
    file = data_folder / "tables" / "tiny.parquet"
    measure_table(tiny)
    before, written = file.read_bytes(), file.stat().st_mtime_ns
    measure_table(tiny)
    assert file.stat().st_mtime_ns == written
    file.unlink()
    measure_table(tiny)
    assert file.read_bytes() == before


def test_a_failed_export_leaves_the_old_file_and_no_other(tiny, counted, data_folder, monkeypatch):
    measure_table(tiny, "raw_parameter_norm")
    before = {path.name: path.read_bytes() for path in (data_folder / "tables").glob("*parquet*")}

    def full(self, content):
        self.touch()
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(gengap.GengapError, match="cannot be written .No space left"):
        measure_table(tiny, "counted")
    after = {path.name: path.read_bytes() for path in (data_folder / "tables").glob("*parquet*")}
    assert after == before
    monkeypatch.undo()


def test_a_store_in_a_place_that_cannot_be_written_is_one_sentence(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(gengap.GengapError, match="cannot be written .*set GENGAP_DATA"):
        measure_table(tiny, "raw_parameter_norm", store=tmp_path / "file" / "x.sqlite")


def test_a_damaged_store_or_table_is_one_sentence(tiny, data_folder):
    (data_folder / "tables").mkdir()
    (data_folder / "tables" / "tiny.parquet").write_text("not a table, but longer than its footer")
    with pytest.raises(gengap.GengapError, match="tiny.parquet cannot be read"):
        measure_table(tiny, "raw_parameter_norm")
    (data_folder / "tables" / "tiny.parquet").unlink()
    (data_folder / "tables" / "tiny.sqlite").write_text("not a database" * 1000)
    with pytest.raises(gengap.GengapError, match="tiny.sqlite cannot be written .*not a database"):
        measure_table(tiny, "raw_parameter_norm")


@pytest.mark.parametrize("column", ["record", "model_id", "value", "note"])
def test_rows_of_a_table_without_a_column_are_computed_again(tiny, counted, data_folder, column):
    file = data_folder / "tables" / "tiny.parquet"
    measure_table(tiny, "counted")
    store = table.default_store(tiny)
    store.unlink()
    pd.read_parquet(file).drop(columns=column).to_parquet(file)
    found = measure_table(tiny, "counted")
    assert len(found) == 8 and len(counted) == 16 and found["value"].notna().all()


def test_what_would_take_longer_than_the_budget_ends_after_a_pilot_that_is_kept(tiny, counted):
    def slow(model):
        counted.append(model.record["model_id"])
        time.sleep(0.02)
        return float(len(counted))

    gengap.measure(slow)
    with pytest.raises(OverBudget, match=r"^5 models of tiny lack values, .* core-hours") as told:
        measure_table(tiny, "slow", budget=0)
    assert counted == ["left/1", "right/4", "right/6"]
    assert told.value.models == 5
    assert 0.1 < told.value.seconds < 5
    rows = measure_table(tiny, "slow", budget=1)
    assert len(counted) == 8
    assert len(rows) == 8


def test_kernels_of_chapters_have_the_budget_of_their_environment(tiny, counted, monkeypatch):
    monkeypatch.setenv("GENGAP_BUDGET", "0")
    with pytest.raises(OverBudget, match="more than the budget of 0 minutes"):
        detail_table(tiny, "spectra")
    monkeypatch.setenv("GENGAP_BUDGET", "5")
    assert detail_table(tiny, "spectra")["model_id"].nunique() == 8


def test_an_interruption_tells_what_is_kept_and_keeps_it(tiny, counted, monkeypatch):
    @gengap.measure
    def interrupted(model) -> float:
        if len(counted) == 3:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt, match=r"^5 of 16 values are computed and kept in .*tiny"):
        measure_table(tiny, ["counted", "interrupted"])
    assert len(kept(table.default_store(tiny))) == 5


# --- killed, and several at once


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Starts `slow_measures.run` in a process forked from one that has PyTorch imported."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    monkeypatch.setattr("gengap.measures.MEASURES", {})  # they are not for this process
    import slow_measures

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["slow_measures"])

    def start(store: Path, log: Path, *query) -> multiprocessing.Process:
        log.touch()
        calls = calls_in(log)
        arguments = (tmp_path, store, log, *query)
        process = context.Process(target=slow_measures.run, args=arguments)
        process.start()
        while process.is_alive() and calls_in(log) == calls:  # until a value is in the making
            time.sleep(0.002)
        return process

    return start


def calls_in(log: Path) -> int:
    return len(log.read_text().splitlines())


def killed_until_done(start, store: Path, log: Path) -> int:
    """Start and kill until a run ends by itself; a kill may cost the value in the making only."""
    moments, before, calls, kills = random.Random(0), {}, 0, 0
    while True:
        process = start(store, log)
        process.join(moments.uniform(0, 0.08))
        process.kill()  # SIGKILL
        process.join()
        after = kept(store)  # with the seconds measured: none is computed a second time
        assert {key: after.get(key) for key in before} == before
        lost = (calls_in(log) - calls) - (len(after) - len(before))
        assert lost <= 1, f"{lost} measured values were not kept"
        if process.exitcode == 0:
            return kills
        before, calls, kills = after, calls_in(log), kills + 1


def test_killing_at_random_moments_loses_nothing_finished(start, tmp_path):
    store, log = tmp_path / "killed.sqlite", tmp_path / "calls"
    assert killed_until_done(start, store, log) >= 3, "too few kills to mean anything"

    uninterrupted = tmp_path / "elsewhere" / "uninterrupted.sqlite"
    whole = start(uninterrupted, tmp_path / "other_calls")
    whole.join()
    assert without_seconds(kept(store)) == without_seconds(kept(uninterrupted))
    assert len(kept(store)) == 24


def test_processes_that_write_one_new_store_at_once_lose_nothing(start, tmp_path):
    store, calls = tmp_path / "shared.sqlite", tmp_path / "calls"
    queries = [f"hp_seed % 4 == {part}" for part in range(4)]
    processes = [start(store, calls, query) for query in queries]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(kept(store)) == 24
    assert calls_in(calls) == 24
    [exported] = tmp_path.glob("tiny-*.parquet")
    assert len(pd.read_parquet(exported)) == 24


# --- in several processes


def table_by(tiny, folder, measures=None, **where) -> pd.DataFrame:
    """The table that was computed there, into a store of its own, without seconds."""
    rows = measure_table(tiny, measures, store=folder / "store.sqlite", **where)
    return rows.drop(columns="seconds")


def test_two_workers_and_a_cluster_give_the_same_table_as_one_to_the_last_bit(
    tiny, scheduler, tmp_path, monkeypatch
):
    monkeypatch.setattr("gengap.tables.engine.SECONDS_ALONE", 1e-9)
    few = tiny.select("hp_seed % 3 == 0")  # of both families
    one = table_by(few, tmp_path / "one", workers=1)
    two = table_by(few, tmp_path / "two", workers=2)
    there = table_by(few, tmp_path / "there", scheduler=scheduler)
    assert len(one) == 3 * len(MEASURES)
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    pd.testing.assert_frame_equal(one, there, check_exact=True)


def test_a_worker_killed_in_a_run_loses_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("gengap.tables.engine.SECONDS_ALONE", 1e-9)
    monkeypatch.setattr("gengap.measures.MEASURES", registry := dict(MEASURES))
    monkeypatch.setattr("gengap.tables.values.MEASURES", registry)
    calls = tmp_path / "calls"

    @gengap.measure
    def deadly(model) -> float:
        with calls.open("a") as log:
            log.write(f"{model.record['model_id']}\n")
        if model.record["model_id"] == "left/2" and calls.read_text().count("left/2") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return model.record["hp_seed"] + 0.5

    rows = table_by(tiny, tmp_path / "killed", ["deadly", "raw_parameter_norm"], workers=2)
    assert list(rows.query("measure == 'deadly'")["value"]) == [seed + 0.5 for seed in range(8)]
    norms = rows.query("measure == 'raw_parameter_norm'").reset_index(drop=True)
    pd.testing.assert_frame_equal(norms, table_by(tiny, tmp_path / "whole", "raw_parameter_norm"))
    assert calls.read_text().count("left/2") == 2
    assert len(calls.read_text().split()) <= 8 + 1 + 2  # and what waited at the same worker


def test_a_measure_of_a_users_file_is_computed_by_workers(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("gengap.tables.engine.SECONDS_ALONE", 1e-9)
    registry = dict(MEASURES)
    for module in ("gengap.measures", "gengap.submission.measure_file", "gengap.tables.values"):
        monkeypatch.setattr(f"{module}.MEASURES", registry)
    (tmp_path / "mine.py").write_text(
        "import gengap\n\nFACTOR = 3\n\ndef helper(x):\n    return FACTOR * x\n\n"
        "@gengap.measure\ndef mine(model):\n    return helper(model.record['hp_seed'])\n"
    )
    [name] = measures_in(tmp_path / "mine.py")
    rows = table_by(tiny, tmp_path / "mine", name, workers=2)
    assert list(rows["value"]) == [3.0 * seed for seed in range(8)]


def test_values_of_other_weights_are_computed_again_under_the_same_index(tiny, counted):
    (tiny.root / "left").mkdir()
    for place in range(4):
        (tiny.root / "left" / str(place)).write_text("weights")
    measure_table(tiny, "counted")
    (tiny.root / "left" / "2").write_text("weights times ten")
    assert list(measure_table(tiny, "counted")["value"]) == [1, 2, 9, 4, 5, 6, 7, 8]
    assert counted[8:] == ["left/2"]
    (tiny.root / "left" / "2").write_text("weights")
    assert list(measure_table(tiny, "counted")["value"]) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len(counted) == 9
