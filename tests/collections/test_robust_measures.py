"""The table of a study without weights, as a collection: a small file of its columns."""

import numpy as np
import pytest
from archives.robust_table import FILE, study_table

from gengap import GengapError, open_collection
from gengap.evaluation.judgement import judged
from gengap.submission.standing import kept_values
from gengap.tables.values import measure_table


@pytest.fixture
def table():
    return study_table()


@pytest.fixture
def written(table, tmp_path):
    def write(rows=table):
        rows.to_csv(tmp_path / FILE, index=False)
        return open_collection("robust-measures", tmp_path)

    return write


def test_settings_gaps_and_measures_are_those_of_the_table(written, table):
    collection = written()
    index, values = collection.index(), kept_values(collection)
    assert index["gap"].tolist() == pytest.approx(table["gen.gap"])
    assert index.groupby("family").size().to_dict() == {"nin_cifar10": 24, "nin_svhn": 24}
    assert set(index["hp_lr"]) == {0.01, 0.0316}
    assert set(index["train_images"]) == {5000}
    copies = index.groupby(["family", "hp_model_depth", "hp_batch_size", "hp_lr"])["hp_copy"]
    assert copies.agg(sorted).tolist() == [[0, 1, 2]] * 16
    assert list(values) == ["parameter_count", "log_product_of_spectral_norms_fft", "of_their_own"]
    assert values.loc[index["model_id"], "parameter_count"].tolist() == pytest.approx(index["gap"])
    few = collection.select("family == 'nin_svhn'").given_values()
    assert few.index.str.startswith("nin_svhn/").sum() == len(few) == 24


def test_networks_that_the_study_leaves_out_are_left_out(written, table):
    table.loc[0, "is.converged"] = False
    table.loc[1, "is.high_train_accuracy"] = False
    table.loc[2, "complexity.params"] = np.inf
    table.loc[3, "gen.gap"] = np.nan
    collection = written(table)
    assert collection.index()["model_id"].tolist()[:2] == ["nin_cifar10/4", "nin_cifar10/5"]
    assert len(collection.index()) == 44
    assert len(collection.given_values()) == 44


def test_its_measures_are_judged_and_no_measure_of_ours_is_computed(written, data_folder):
    collection = written()
    options = {"scores": ["kendall_tau"], "samples": 9, "permutations": 9}
    rows = judged(collection.given_values(), collection.index(), **options)
    assert (rows[rows["measure"] == "parameter_count"]["value"] == 1).all()
    rows = measure_table(collection, "path_norm")
    assert set(rows["note"]) == {
        "of this study the values of measures were published, and no weights"
    }


def test_another_table_is_one_sentence(written, table):
    with pytest.raises(GengapError, match=r"lacks the columns gen\.gap, is\.converged; it is not"):
        written(table.drop(columns=["gen.gap", "is.converged"])).index()
