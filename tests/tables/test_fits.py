"""Results of fits are computed once, and again when the code or the key changes."""

from functools import partial

import pandas as pd
import pytest

from gengap.tables.fits import kept_results

CALLS: list[int] = []


def rows_of(number: int) -> list[dict]:
    CALLS.append(number)
    if number == 13:
        raise ValueError("thirteen")
    return [{"number": number, "third": number / 3, "at": at} for at in range(2)]


@pytest.fixture(autouse=True)
def calls(data_folder):
    CALLS.clear()
    return CALLS


def results(numbers, *, table="some.fits", source="code", made_by="table"):
    tasks = ((f"key {number}", partial(rows_of, number)) for number in numbers)
    return dict(kept_results(table, made_by, source, tasks, workers=1))


def test_what_is_kept_is_not_computed_again_and_is_the_same(calls, data_folder):
    first = results([1, 2])
    assert first == {0: rows_of(1), 1: rows_of(2)}
    calls.clear()
    assert results([2, 3, 1]) == {0: first[1], 1: rows_of(3), 2: first[0]}
    assert calls == [3, 3]  # once for the table, once here
    (data_folder / "tables" / "some.fits.sqlite").unlink()  # the table alone is shipped
    calls.clear()
    assert results([1, 2, 3])[0] == first[0] and not calls


def test_results_of_other_code_are_computed_again_and_replaced(calls, data_folder):
    results([1, 2])
    results([1], made_by="another")
    results([1], source="other code")
    assert calls == [1, 2, 1, 1]
    shipped = pd.read_parquet(data_folder / "tables" / "some.fits.parquet")
    assert shipped[["measure", "model_id", "source"]].to_numpy().tolist() == [
        ["another", "key 1", "code"],
        ["table", "key 1", "other code"],
    ]


def test_without_a_table_nothing_is_kept(calls, data_folder):
    for _ in range(2):
        assert results([4], table=None) == {0: rows_of(4)}
    assert calls == [4] * 4 and not (data_folder / "tables").exists()


def test_what_was_computed_before_a_failure_is_kept(calls):
    with pytest.raises(ValueError, match="thirteen"):
        results([1, 2, 13])
    assert len(results([1, 2])) == 2 and calls == [1, 2, 13]


def test_tasks_are_asked_for_one_after_the_other(calls):
    def tasks():
        for number in range(3):
            assert len(calls) == number  # the one before is done
            yield f"key {number}", partial(rows_of, number)

    found = [place for place, _ in kept_results("some.fits", "table", "code", tasks(), workers=1)]
    assert found == [0, 1, 2]
