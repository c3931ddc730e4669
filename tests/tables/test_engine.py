"""The engine gives the same results wherever items are computed, and loses nothing finished."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cloudpickle
import numpy as np
import psutil
import pytest
import torch

import gengap
from gengap.tables import engine

# Workers cannot import a module of tests: what it defines travels whole, as a notebook's does.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def held(number: int) -> tuple[int, int]:
    return number, os.getpid()


def products(state: tuple[int, int], item: int):
    """A product of matrices, whose last digits depend on threads, and the process that made it."""
    random = np.random.default_rng(item).normal(size=(300, 300))
    yield float((random @ random).sum()) + state[0]
    yield state[1]


def ordered(found) -> list[list]:
    rows = {}
    for place, result in found:
        rows.setdefault(place, []).append(result)
    return [rows[place] for place in sorted(rows)]


def values(rows: list[list]) -> list[float]:
    return [row[0] for row in rows]


def test_results_are_the_same_to_the_last_bit_wherever_they_are_computed(scheduler):
    run = partial(engine.results, products, range(6), start=partial(held, 1))
    alone, two = ordered(run(workers=1)), ordered(run(workers=2))
    there = ordered(run(scheduler=scheduler))
    assert values(alone) == values(two) == values(there)
    assert {row[1] for row in alone} == {os.getpid()}
    assert len({row[1] for row in two}) == len({row[1] for row in there}) == 2
    assert os.getpid() not in {row[1] for row in two + there}


def test_all_within_on_scheduler_is_computed_there(scheduler):
    with engine.on_scheduler(scheduler):
        there = ordered(engine.results(products, range(2), start=partial(held, 1)))
    assert os.getpid() not in {row[1] for row in there}


@pytest.mark.parametrize("most, given", [(1, 2), (2**31, 8)])
def test_of_large_items_a_cluster_is_given_one_a_worker(scheduler, monkeypatch, most, given):
    monkeypatch.setattr(engine, "BYTES_AHEAD", most)
    asked = []
    items = (asked.append(item) or item for item in range(8))
    found = engine.results(products, items, start=partial(held, 1), scheduler=scheduler)
    first = next(found)
    assert len(asked) == given
    assert sorted({place for place, _ in [first, *found]}) == [*range(8)]


def test_a_single_item_and_work_of_a_moment_start_no_process():
    run = partial(engine.results, products, start=partial(held, 1), workers=2)
    found = ordered(run([3])) + ordered(run(range(5), alone=60))
    assert {row[1] for row in found} == {os.getpid()}
    assert list(run([])) == []


def test_after_its_time_alone_the_rest_is_done_by_others():
    run = partial(engine.results, products, start=partial(held, 1), workers=2)
    found = ordered(run(range(5), alone=1e-9))
    assert values(found) == values(ordered(run(range(5), alone=60)))
    assert os.getpid() not in {row[1] for row in found}


def test_threads_of_this_process_are_as_before_afterwards():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    for _ in engine.results(products, [1], start=partial(held, 1), workers=1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def dies_once(folder: Path, item: int):
    """The worker of item 1 kills itself the first time."""
    mark = folder / "died"
    if item == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    yield item * 10


def dies(_, item: int):
    yield item
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def fails(_, item: int):
    yield item
    if item == 2:
        raise gengap.GengapError("item 2 is not to be had")


def test_an_item_whose_worker_died_is_tried_again_and_nothing_finished_is_lost(tmp_path):
    run = partial(engine.results, dies_once, start=lambda: tmp_path, workers=2)
    assert ordered(run(range(6))) == [[item * 10] for item in range(6)]


def test_a_worker_that_dies_on_an_item_twice_is_one_sentence():
    with pytest.raises(gengap.GengapError, match="died twice on the same task, perhaps for lack"):
        list(engine.results(dies, range(4), workers=2))


def test_what_a_function_raises_comes_after_its_results():
    found = []
    with pytest.raises(gengap.GengapError, match="item 2 is not to be had"):
        for _, result in engine.results(fails, range(3), workers=2):
            found.append(result)
    assert 2 in found


def listening(_, item: int):
    """Where this process and those that it came from listen."""
    me = psutil.Process()
    for process in [me, *me.parents()[:1]]:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                yield connection.laddr.ip


def test_a_cluster_of_this_machine_listens_on_loopback_alone():
    places = [ip for _, ip in engine.results(listening, range(2), workers=2)]
    assert len(places) > 2 and set(places) == {"127.0.0.1"}


def test_a_scheduler_that_is_not_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr(engine, "SECONDS_TO_CONNECT", 1)
    with pytest.raises(gengap.GengapError, match="no Dask scheduler answers at 'tcp://127.0.0.1:1"):
        list(engine.results(products, range(3), scheduler="tcp://127.0.0.1:1"))


def test_a_cluster_without_a_gpu_is_told_when_one_is_asked_for(scheduler):
    run = engine.results(products, range(3), scheduler=scheduler, device="cuda")
    with pytest.raises(gengap.GengapError, match="none of the 2 workers offers a GPU; start them"):
        list(run)


SLEEPING = """
import os, pathlib, signal, sys, time
from gengap.tables import engine

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs with & ignores it

def sleep(_, item):
    pathlib.Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(1000)
    yield item

if __name__ == "__main__":
    try:
        list(engine.results(sleep, range(4), workers=2))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize(("end", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_workers_end_with_a_parent_that_is_killed_or_interrupted(tmp_path, end, code):
    (tmp_path / "pids").mkdir()
    script = tmp_path / "sleeping.py"
    script.write_text(SLEEPING.replace("sys.argv[1]", repr(str(tmp_path / "pids"))))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, script], env=environment, start_new_session=True)
    while len(pids := list((tmp_path / "pids").iterdir())) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    family = psutil.Process(parent.pid).children(recursive=True)
    assert {int(path.name) for path in pids} <= {process.pid for process in family}
    if end == signal.SIGINT:
        os.killpg(parent.pid, end)  # as a terminal does
    else:
        parent.send_signal(end)
    assert parent.wait(60) == code
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive


def slowly(_: None, item: int) -> tuple[int]:
    time.sleep(0.2)
    return (item,)


def test_where_no_worker_is_left_it_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(engine, "SECONDS_WITHOUT_WORKERS", 2)
    monkeypatch.setattr(engine, "_LOCAL", {})  # a cluster of its own
    found = engine.results(slowly, range(100), workers=2)
    next(found)
    try:
        engine._LOCAL["cluster"].scale(0)
        with pytest.raises(gengap.GengapError, match="no worker process has been left"):
            list(found)
    finally:
        engine._close_local()
