import pytest

import gengap
from gengap.measures import MEASURES, chosen_measures


@pytest.fixture(autouse=True)
def untouched_registry(monkeypatch):
    monkeypatch.setattr("gengap.measures.MEASURES", dict(MEASURES))


def test_a_measure_is_registered_under_its_own_name_and_stays_a_function():
    @gengap.measure
    def a_new_measure(model):
        return 1.0

    assert chosen_measures("a_new_measure") == {"a_new_measure": a_new_measure}
    assert a_new_measure(None) == 1.0


def test_a_name_that_is_taken_is_refused():
    def raw_parameter_norm(model):
        return 0.0

    with pytest.raises(gengap.GengapError, match="'raw_parameter_norm' exists already .in gengap"):
        gengap.measure(raw_parameter_norm)


def test_a_measure_typed_again_in_a_notebook_replaces_itself():
    for value in (1.0, 2.0):

        def typed(model, value=value):
            return value

        typed.__module__ = "__main__"
        gengap.measure(typed)
    assert chosen_measures(["typed"])["typed"](None) == 2.0


def test_a_constant_without_a_default_is_refused():
    def needs_more(model, *, radius):
        return radius

    with pytest.raises(gengap.GengapError, match=r"callable as needs_more\(model\).*'radius'"):
        gengap.measure(needs_more)


def test_an_unknown_measure_is_answered_with_the_nearest():
    with pytest.raises(gengap.GengapError, match="'raw_parameter_nrom'; did you mean 'raw_para"):
        chosen_measures(["raw_parameter_nrom"])


def test_no_name_means_all_measures():
    assert list(chosen_measures()) == list(MEASURES)
    assert {"raw_parameter_norm", "path_norm", "inverse_margin"} < set(MEASURES)
