import pandas as pd
import pytest
from torch import nn

import gengap
from gengap.measures.training_speed import area_under_training_loss, sum_of_training_losses
from gengap.model import RecordedModel, trajectory


def with_losses(epochs: list[int], losses: list[float]) -> gengap.Model:
    found = pd.DataFrame({"epoch": epochs, "train_loss": losses})
    return RecordedModel(nn.Sequential(), pd.Series(), read_trajectory=lambda: found)


def test_an_epoch_counts_once_in_the_sum_and_as_long_as_it_lasted_in_the_area():
    model = with_losses([0, 1, 5], [3.0, 2.0, 1.0])
    assert sum_of_training_losses(model) == 6
    assert area_under_training_loss(model) == 2.5 + 4 * 1.5


def test_one_epoch_has_a_loss_and_no_area():
    model = with_losses([0], [3.0])
    assert sum_of_training_losses(model) == 3
    with pytest.raises(gengap.NotAvailable, match="no epoch before"):
        area_under_training_loss(model)


def test_a_model_of_one_epoch_is_not_available():
    model = gengap.Model(nn.Sequential(), pd.Series())
    with pytest.raises(gengap.NotAvailable, match="earlier epochs"):
        sum_of_training_losses(model)


def test_a_checkpoint_of_the_zoo_sees_its_own_epochs_up_to_itself():
    zoo = gengap.open_collection("cnnzoo")
    index = zoo.index()
    row = index[index["epoch"] == 20].iloc[7]
    own = index[(index["family"] == row["family"]) & (index["run"] == row["run"])]
    own = own[own["epoch"] <= 20].sort_values("epoch")
    alone = zoo.select(f"model_id == '{row['model_id']}'").load(row["model_id"])
    assert trajectory(alone)["epoch"].tolist() == [0, 1, 2, 3, 20]
    assert sum_of_training_losses(alone) == pytest.approx(own["train_loss"].sum())


def test_an_epoch_of_genprob_sees_all_epochs_that_training_kept():
    genprob = gengap.open_collection("genprob")
    row = genprob.index().iloc[0]
    epochs = genprob.kept_epochs()
    network = row["model_id"].rpartition("/")[0] + "/"
    own = epochs[epochs["model_id"].str.startswith(network) & (epochs["epoch"] <= row["epoch"])]
    found = trajectory(genprob.load(row["model_id"]))
    assert found["epoch"].tolist() == list(range(row["epoch"] + 1))
    assert found["train_loss"].tolist() == own["train_loss"].tolist()


def test_a_checkpoint_of_the_zoo_whose_earlier_loss_is_left_out_is_not_available():
    zoo = gengap.open_collection("cnnzoo")
    model = zoo.index().iloc[0]
    row = zoo.index().query("family == @model.family and run == @model.run and epoch == 3").iloc[0]
    lacking = zoo.select(f"model_id != '{model['model_id']}'")
    lacking.whole = lacking
    with pytest.raises(gengap.NotAvailable, match="not finite"):
        trajectory(lacking.load(row["model_id"]))
