"""A measure of one's own may do anything: that is told per model, and harms nothing else."""

import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch

import gengap
from gengap.measures import MEASURES
from gengap.submission import process
from gengap.submission import values as own
from gengap.submission.measure_file import Batches, finite, own_measure, row_of
from gengap.submission.values import own_predictions, own_values
from gengap.tables.store import rows_in

HEAD = """
import os, signal, sys, time
from gengap import NotAvailable, measure
"""

# What it does on each model, by the seed of the tiny collection's network.
DANGEROUS = (
    HEAD
    + """
@measure
def dangerous(model):
    print("noise on stdout")
    seed = int(model.record["hp_seed"])
    if seed == 1:
        return 1 / 0
    if seed == 2:
        sys.exit("enough")
    if seed == 3:
        os._exit(3)
    if seed == 4:
        time.sleep(1000)
    if seed == 5:
        return float("nan")
    if seed == 6:
        next(model.network.parameters()).data.mul_(2)
    if seed == 7:
        os.kill(os.getpid(), signal.SIGSEGV)
    return seed + 0.5
"""
)

NOTES = {
    "left/0": "",
    "left/1": r"ZeroDivisionError: division by zero \(mine.py line 10\)",
    "left/2": r"SystemExit: enough \(mine.py line 12\)",
    "left/3": r"its process ended \(exit code 3\)",
    "right/4": "no value after 3 seconds",
    "right/5": "it returned nan",
    "right/6": "it changed the network's weights; .*",
    "right/7": r"its process ended \(SIGSEGV\)",
}


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """The folder of results, empty; measures of a test are forgotten after it."""
    registry = dict(MEASURES)
    for module in ("gengap.measures", "gengap.submission.measure_file", "gengap.tables.values"):
        monkeypatch.setattr(f"{module}.MEASURES", registry)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(own, "results_folder", lambda: tmp_path / "scores")
    return tmp_path / "scores"


@pytest.fixture
def write(tmp_path):
    """Writes a file of a measure and returns its path."""

    def write(text: str, name: str = "mine.py"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


# --- in processes of its own


def test_whatever_it_does_on_one_model_is_told_and_all_others_have_their_values(
    tiny, write, capfd, data_folder
):
    rows = own_values(write(DANGEROUS), [tiny], limit=3, workers=2)
    notes = rows.set_index("model_id")["note"]
    assert list(notes.index) == list(NOTES)
    for model_id, expected in NOTES.items():
        assert re.fullmatch(expected, notes[model_id]), (model_id, notes[model_id])
    assert rows["value"].dropna().tolist() == [0.5]
    assert list(rows.columns) == gengap.tables.values.COLUMNS
    assert set(rows["measure"]) == {"dangerous"} and "dangerous" not in MEASURES
    assert "noise" not in capfd.readouterr().out
    assert not (data_folder / "tables").exists()


def test_a_second_run_computes_only_what_is_missing(tiny, write, results, monkeypatch):
    text = HEAD + (
        "@measure\ndef seconds(model):\n"
        "    if model.record['hp_seed'] == 1 and not os.path.exists('PATH'):\n"
        "        raise ValueError('not yet')\n"
        "    return time.time()\n"
    ).replace("PATH", str(results / "now"))
    file = write(text)
    first = own_values(file, [tiny.select("hp_seed < 2")], workers=1)
    (results / "now").touch()
    second = own_values(file, [tiny.select("hp_seed < 3")], workers=1)
    assert second["value"][0] == first["value"][0] and second["note"][1] == first["note"][1] != ""
    assert second["value"][2] > first["value"][0]
    monkeypatch.setattr(own, "computed", lambda job, tasks, **_: iter(tasks))  # nothing
    again = own_values(file, [tiny.select("hp_seed == 2")], workers=1)
    assert again["value"][0] == second["value"][2]


def test_what_had_no_value_is_tried_again_on_request_and_what_changed_always(
    tiny, write, monkeypatch
):
    asked = []

    def computed(job, tasks, **_):
        for task in tasks:
            asked.append(task[1])
            value = None if task[1] == "left/1" else 1.0
            yield (
                task,
                {"measure": "a", "value": value, "seconds": 0.0, "note": "" if value else "no"},
            )

    monkeypatch.setattr(own, "computed", computed)
    file, two = write("first"), tiny.select("hp_seed < 2")
    (tiny.root / "left").mkdir()
    for place in range(2):
        (tiny.root / "left" / str(place)).write_text("weights")
    for expected, changes in (
        (["left/0", "left/1"], {}),
        ([], {}),
        (["left/1"], {"retry": True}),
    ):
        asked.clear()
        own_values(file, [two], **changes)
        assert asked == expected
    asked.clear()
    own_values(write("second"), [two])
    assert asked == ["left/0", "left/1"]
    asked.clear()
    own_values(write("second"), [two])
    assert asked == []
    two.whole._index["test_loss"] += 1  # trained anew
    two._index["test_loss"] += 1
    own_values(write("second"), [two])
    assert asked == ["left/0", "left/1"]
    asked.clear()
    (tiny.root / "left" / "1").write_text("other weights under an index that is the same")
    own_values(write("second"), [two])
    assert asked == ["left/1"]


FORKING = (
    HEAD
    + """
@measure
def forking(model):
    seed = int(model.record["hp_seed"])
    if seed % 2 == 0 and os.fork() == 0:
        if seed % 4 == 0:
            sys.exit("a child that ends as a program does")
        time.sleep(0.05)
        return 1000.0 + seed  # a child that goes on serving
    time.sleep(0.2 * (seed == 3))
    return float(seed)
"""
)


def test_a_measure_that_forks_gives_each_model_its_own_value(tiny, write):
    rows = own_values(write(FORKING), [tiny], workers=1)
    assert rows["value"].tolist() == [float(seed) for seed in range(8)]


class Answers:
    """A pipe on which a worker finds these messages, one after the other."""

    def __init__(self, *messages):
        self.messages = [json.dumps(message).encode() for message in messages]

    def recv_bytes(self, most):
        assert most <= process.LONGEST
        return self.messages.pop(0)


def test_an_answer_that_belongs_to_another_task_is_not_taken():
    worker = object.__new__(process._Worker)
    worker.task = (0, "left/1")
    late = {"task": [0, "left/0"], "value": 7.0, "seconds": 0.0, "note": ""}
    due = {"task": [0, "left/1"], "value": 1.0, "seconds": 0.0, "note": ""}
    worker.pipe = Answers(late, due)
    assert worker.heard(ready=True) is None
    assert worker.heard(ready=True) == due


@pytest.mark.parametrize(
    "forged",
    [
        "abc",
        [1],
        {"value": 1.0},
        {"task": [0, "a"], "value": "high", "seconds": 0.0, "note": ""},
        {"task": [0, "a"], "value": float("nan"), "seconds": 0.0, "note": ""},
        {"task": [0, "a"], "value": 1.0, "seconds": 0.0, "note": 5},
        {"error": {}},
    ],
)
def test_what_a_measure_writes_on_the_connection_is_no_answer(forged):
    worker = object.__new__(process._Worker)
    worker.task, worker.given_at, worker.pipe = (0, "a"), 0.0, Answers(forged)
    told = worker.heard(ready=True)
    assert told["value"] is None and "wrote to the connection" in told["note"] and worker.dead


HOLDING = """
import ctypes, os, pathlib, subprocess
import gengap

@gengap.measure
def holding(model):
    child = subprocess.Popen(["sleep", "1000"])
    pathlib.Path(__file__).with_name("pids").write_text(f"{os.getpid()} {child.pid} ")
    ctypes.PyDLL(None).sleep(1000)  # without letting another thread run
"""
PARENT = """
from gengap.submission.process import Job, computed

if __name__ == "__main__":
    job = Job(FILE, (("tiny_collection:TinyCollection", ROOT),), "cpu", 1)
    list(computed(job, [(0, "left/0")], limit=1000, workers=1))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal of a pipe")
def test_a_measure_that_lets_no_thread_run_ends_with_the_parent_and_all_it_started(tiny, write):
    file, pids = write(HOLDING), write("", "pids")
    names = {"FILE": repr(str(file)), "ROOT": repr(str(tiny.root))}
    script = write(re.sub("FILE|ROOT", lambda found: names[found[0]], PARENT), "parent.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, script], env=environment)
    while not pids.read_text().endswith(" "):
        assert parent.poll() is None
        time.sleep(0.05)
    family = [psutil.Process(int(pid)) for pid in pids.read_text().split()]
    parent.kill()
    parent.wait(60)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive


def test_an_interruption_loses_nothing_and_leaves_no_process(tiny, write, monkeypatch):
    started = []
    real = own._keep

    def interrupted(collection, versions, row):
        kept = real(collection, versions, row)
        started.append(row["model_id"])
        if len(started) == 2:
            raise KeyboardInterrupt
        return kept

    monkeypatch.setattr(own, "_keep", interrupted)
    file = write(
        HEAD
        + "@measure\ndef pid(model):\n"
        + "    if model.record['hp_seed'] > 1: time.sleep(1000)\n"
        + "    return os.getpid()\n"
    )
    with pytest.raises(KeyboardInterrupt, match="^1 of 8 models are done and kept in"):
        own_values(file, [tiny], workers=1)
    assert started == ["left/0", "left/1"]
    rows = rows_in(own.results_store(tiny), tiny.name)
    assert list(rows["model_id"]) == started
    with pytest.raises(ProcessLookupError):
        os.kill(int(rows["value"].iloc[-1]), 0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import os; os._exit(0)", r"mine.py cannot be imported: its process ended .exit code 0"),
        ("import time; time.sleep(1000)", "mine.py cannot be imported: no value after 2 seconds"),
        ("def f(:", "mine.py cannot be imported .SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_imported_ends_with_one_sentence(tiny, write, text, sentence):
    with pytest.raises(gengap.GengapError, match=sentence):
        own_values(write(text), [tiny], limit=2, workers=1)


# --- one attempt


def attempt(tiny, function, model_id: str = "left/0") -> dict:
    return row_of(function, tiny, model_id, "mine.py")


def leave_gradients(model):
    model.network(model.sample[0]).sum().backward()
    return 1.0


def unavailable(model):
    raise gengap.NotAvailable("no such thing")


@pytest.mark.parametrize(
    ("function", "note"),
    [
        (lambda model: float("inf"), "it returned inf"),
        (lambda model: "0.5", "it returned no number but '0.5'"),
        (lambda model: None, "it returned no number but None"),
        (lambda model: np.complex128(3 + 1j), "it returned no number but np.complex128(3+1j)"),
        (lambda model: torch.tensor(3 + 1j).sqrt(), "it returned no number but tensor("),
        (lambda model: 10**400, "it returned a number that is too large"),
        (lambda model: model.logits, "ValueError: only one element"),
        (lambda model: float(model.network.train().training), "it left the network in training"),
        (leave_gradients, "it left gradients in the network"),
        (lambda model: model.network.double() and 1.0, "it changed the network's weights"),
        (lambda model: float(model.sample[0].add_(1).sum()), "it changed the training sample"),
        (lambda model: float(model.sample[0].data.add_(1).sum()), "it changed the training sample"),
        (unavailable, "not available: no such thing"),
    ],
)
def test_what_is_no_value_says_why(tiny, function, note):
    row = attempt(tiny, function)
    assert row["value"] is None and row["note"].startswith(note)


def test_a_changed_sample_does_not_reach_the_next_model(tiny):
    before = attempt(tiny, lambda model: float(model.sample[0].sum()))
    attempt(tiny, lambda model: float(model.sample[0].zero_().sum()))
    after = attempt(tiny, lambda model: float(model.sample[0].sum()))
    assert after["value"] == before["value"] != 0


def test_random_measures_do_not_depend_on_the_order_of_models(tiny):
    values = {
        attempt(tiny, lambda model: torch.rand(()), f"left/{seed}")["value"] for seed in "012"
    }
    assert len(values) == 1


@pytest.mark.parametrize("value", [1, 1.5, True, torch.tensor(2.0), torch.ones(1, 1).numpy()[0, 0]])
def test_every_kind_of_finite_number_is_a_value(value):
    assert finite(value) == (float(value), "")


def test_complexity_gets_the_network_and_batches_that_can_be_read_twice(tiny, write):
    file = write(
        "def complexity(model, dataset):\n"
        "    assert not model.training\n"
        "    return sum(len(x) * (len(x) == len(y)) for _ in range(2) for x, y in dataset)\n",
        "competitor.py",
    )
    name, function = own_measure(str(file))
    assert name == "competitor"
    assert attempt(tiny, function)["value"] == 80
    note = attempt(tiny, function, "right/4")["note"]
    assert note == "not available: the family right has no images here"
    inputs, labels = next(iter(Batches(tiny.load("left/0"))))
    assert torch.equal(inputs, tiny.load("left/0").sample[0]) and labels.dtype == torch.int64


TWO = HEAD + "@measure\ndef a(model): return 1\n@measure\ndef b(model): return 2\n"


@pytest.mark.parametrize(
    ("text", "name", "sentence"),
    [
        (TWO, "mine.py", r"registers 2 measures \(a, b\); leave one"),
        ("x = 1", "mine.py", "registers no measure; .* or name it complexity"),
        ("import sys; sys.exit(1)", "mine.py", "cannot be imported .SystemExit: 1"),
        ("import nothing", "mine.py", "ModuleNotFoundError: No module named 'nothing'"),
        ("def complexity(m, d): return 1", "path_norm.py", "'path_norm' exists already; rename"),
        ("x = 1", "mine.txt", "is no Python file"),
    ],
)
def test_a_file_without_exactly_one_measure_is_told(write, text, name, sentence):
    with pytest.raises(gengap.GengapError, match=sentence):
        own_measure(str(write(text, name)))


def test_a_file_may_import_what_lies_beside_it(tiny, write):
    write("CONSTANT = 7", "its_constants.py")
    file = write(HEAD + "import its_constants\n@measure\ndef a(m): return its_constants.CONSTANT")
    assert attempt(tiny, own_measure(str(file))[1])["value"] == 7


# --- predictions


def test_predictions_are_the_values_of_the_family_that_they_name(tiny, write):
    given = {"4": 0.1, "5": 2, "6": float("nan"), "7": "EXCEEDED"}
    rows = own_predictions(write(json.dumps(given), "mine.predict"), tiny)
    assert rows["model_id"].tolist() == ["right/4", "right/5", "right/6", "right/7"]
    assert (
        rows["value"].tolist()[:2] == [0.1, 2] and rows["value"].isna().tolist()[2:] == [True] * 2
    )
    assert rows["note"].tolist()[2:] == ["it returned nan", "it returned no number but 'EXCEEDED'"]
    assert set(rows["measure"]) == {"mine"} and set(rows["family"]) == {"right"}


def test_predictions_of_no_family_or_of_several_are_told(tiny, write, monkeypatch):
    missing = write(json.dumps({"4": 0.1}), "mine.predict")
    assert own_predictions(missing, tiny) is None
    settings = {"limit": 1, "workers": 1, "retry": False}
    with pytest.raises(gengap.GengapError, match="those of 0 families of tiny; give a value"):
        own.values_of_file(missing, [tiny], **settings)
    index = tiny.index()
    index["model_id"] = index["family"] + "/" + (index["hp_seed"] % 4).astype(str)
    monkeypatch.setitem(tiny.__dict__, "_index", index)
    both = write(json.dumps(dict.fromkeys("0123", 1)), "both.predict")
    with pytest.raises(gengap.GengapError, match="several families of tiny .left, right.; choose"):
        own_predictions(both, tiny)
