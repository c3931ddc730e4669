"""Files as people have them: right values, or the true reason why there are none."""

import json
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch

import gengap
from gengap import GengapError, NotAvailable
from gengap.collections.folder import Folder
from gengap.formats.state_dicts import read_state_dict
from gengap.formats.weight_modules import left_out, weights_only_network
from gengap.measures.norm_products import log_product_of_spectral_norms
from gengap.measures.norms import raw_parameter_norm

FIELD = Path(__file__).parents[1] / "field"
EXPECTED = json.loads((FIELD / "expected.json").read_text())
MEASURES = {
    # Of one training image it is the logarithm of the product's root.
    "log_product_of_spectral_norms": lambda model: 2 * log_product_of_spectral_norms(model),
    "parameter_norm_of_weights_and_biases": raw_parameter_norm,
}


def value(name: str, measure: str) -> float:
    network = weights_only_network(read_state_dict(FIELD / "networks" / name), "only weights")
    return MEASURES[measure](gengap.Model(network, pd.Series({"train_images": 1})))


@pytest.mark.parametrize(
    "name, measure", [(name, measure) for name in EXPECTED for measure in EXPECTED[name]]
)
def test_a_file_from_the_field_has_the_right_value(name, measure):
    assert value(name, measure) == pytest.approx(EXPECTED[name][measure], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    "one, other",
    [
        ("params_ema.pt", "plain.pt"),  # the same tensors in a container
        ("sparse.pt", "no_mask.pt"),  # the same tensors, sparse
        ("empty2.pt", "lin_plain.pt"),  # and one without an element
    ],
)
@pytest.mark.parametrize("measure", MEASURES)
def test_the_same_weights_have_the_same_values_however_they_are_kept(one, other, measure):
    assert value(one, measure) == pytest.approx(value(other, measure), rel=1e-6)


def test_shards_are_one_network_and_a_single_one_is_none():
    whole = read_state_dict(FIELD / "networks" / "sharded" / "model.safetensors.index.json")
    assert len(whole) == 28 and "transformer.wte.weight" in whole
    with pytest.raises(GengapError, match="one shard of several"):
        read_state_dict(FIELD / "networks" / "sharded" / "model-00001-of-00002.safetensors")


WRITERS = {
    "safetensors": safetensors.torch.save_file,
    "bin": torch.save,
}


@pytest.fixture(params=WRITERS)
def sharded(request, tmp_path):
    """A network under nn.DataParallel in two shards, and the file that names them."""
    state = read_state_dict(FIELD / "networks" / "gpt2_tied.pt")
    names, ending = list(state), f"of-00002.{request.param}"
    places = {}
    for place, part in enumerate((names[:9], names[9:]), start=1):
        file = tmp_path / f"model-0000{place}-{ending}"
        WRITERS[request.param]({f"module.{name}": state[name].clone() for name in part}, file)
        places |= {f"module.{name}": file.name for name in part}
    index = tmp_path / f"model.{request.param}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_shards_of_every_format_are_the_network_in_one_file(sharded):
    whole = read_state_dict(FIELD / "networks" / "gpt2_tied.pt")
    found = read_state_dict(sharded)
    assert list(found) == list(whole)
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_a_shard_or_a_tensor_that_is_missing_is_named(sharded):
    content = json.loads(sharded.read_text())
    content["weight_map"]["nothing"] = next(iter(content["weight_map"].values()))
    sharded.write_text(json.dumps(content))
    with pytest.raises(GengapError, match="names 1 tensors that its shards lack, as 'nothing'"):
        read_state_dict(sharded)
    next(sharded.parent.glob("*00002-of*")).unlink()
    with pytest.raises(GengapError, match="model-00002-of-00002.*is missing"):
        read_state_dict(sharded)


def test_a_value_is_of_the_index_of_shards_and_of_each_shard():
    record = {"model_id": "model.safetensors.index.json", "family": "all"}
    files = Folder(FIELD / "networks" / "sharded").weight_files(record)
    assert [file.name for file in files] == [
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_gates_of_an_lstm_are_matrices():
    network = weights_only_network(read_state_dict(FIELD / "networks" / "lstm.pt"), "why")
    gates = {name: tuple(p.shape) for name, p in network.named_parameters() if "gate" in name}
    assert len(gates) == 16 and gates["l.weight_ih_l0_gate_0.weight"] == (20, 10)


@pytest.mark.parametrize(
    "name, reason, kind",
    [
        ("int8.pt", "a.weight is int8: quantized", NotAvailable),
        (
            "timm_args.pt",
            r"holds a argparse.Namespace.*torch.save\(network.state_dict",
            GengapError,
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_by_its_name(name, reason, kind):
    with pytest.raises(kind, match=reason):
        read_state_dict(FIELD / "networks" / name)


F8 = torch.float8_e4m3fn
REFUSED = {
    "a.qweight is int32: quantized": {"a.qweight": torch.ones(2, 2, dtype=torch.int32)},
    "a.bias is int8: quantized": {"a.bias": torch.ones(2, dtype=torch.int8)},
    "a.weight is quantized, with its scale in a.weight_scale": {
        "a.weight": torch.eye(2).to(F8),
        "a.weight_scale": torch.ones(1),
    },
    "a.weight is quantized, with its scale in a.scale_weight": {
        "a.weight": torch.eye(2).to(F8),
        "a.scale_weight": torch.ones(1),
    },
    "a.lora_A.default.weight is of LoRA": {  # as PEFT names it, and then as others do
        "a.base_layer.weight": torch.eye(2),
        "a.lora_A.default.weight": torch.ones(1, 2),
        "a.lora_B.default.weight": torch.ones(2, 1),
    },
    "a.lora_B is of LoRA": {"a.weight": torch.eye(2), "a.lora_B": torch.ones(2, 1)},
    "a.lora_up.weight is of LoRA": {"a.lora_up.weight": torch.ones(2, 1)},
    "a.packed is packed, a quantized weight": {"a.packed": (torch.eye(2), None)},
    "a.weights1 is complex64; measures are of real": {"a.weights1": torch.eye(2).cfloat()},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_no_whole_real_weight_is_refused_though_others_could_be_measured(tmp_path, reason):
    torch.save(REFUSED[reason] | {"head.weight": torch.eye(2)}, tmp_path / "a.pt")
    with pytest.raises(NotAvailable, match=reason):
        read_state_dict(tmp_path / "a.pt")


def test_numbers_of_one_byte_without_a_scale_are_weights(tmp_path):
    torch.save({"a.weight": torch.tensor([[0.5, 3.0]]).to(F8)}, tmp_path / "a.pt")
    assert read_state_dict(tmp_path / "a.pt")["a.weight"].tolist() == [[0.5, 3.0]]


def test_a_checkpoint_of_two_networks_is_no_network(tmp_path):
    parts = {"encoder": {"a.weight": torch.eye(2)}, "decoder": {"b.weight": torch.eye(2)}}
    torch.save(parts | {"step": torch.tensor(3)}, tmp_path / "a.pt")
    with pytest.raises(GengapError, match="no tensors of a network, only 'encoder', 'decoder'"):
        read_state_dict(tmp_path / "a.pt")


def test_a_flipped_bit_in_a_weight_is_seen():
    with pytest.raises(GengapError, match="checksum of a/data/0 in it is wrong"):
        read_state_dict(FIELD / "hostile" / "bitflip_in_weight.pt")


@pytest.mark.parametrize(
    "name, remarks",
    [
        ("swin_mask.pt", ["attn.attn_mask (no weights)"]),
        ("inf_mask.pt", ["mask (no weights)"]),
        ("gpt2_tied.pt", ["transformer.wte.weight (stored twice, counted once)"]),
        ("empty2.pt", ["e.weight (empty)"]),
        ("plain.pt", []),
    ],
)
def test_what_no_measure_sees_is_named(name, remarks):
    assert left_out(read_state_dict(FIELD / "networks" / name)) == remarks


@pytest.mark.parametrize("name", ["ckpt", "dotslash", "semicolon", "spaces", "upper_suffix"])
def test_a_table_as_people_write_it_is_read_and_its_networks_load(name):
    folder = gengap.open_collection("folder", root=FIELD / "csv" / name)
    index = folder.index()
    assert index["train_accuracy"].between(0.8, 0.9).all()
    assert index["test_accuracy"].between(0.6, 0.8).all()
    assert all(len(list(folder.load(model_id).network.parameters())) for model_id in index.model_id)


@pytest.mark.parametrize(
    "name, sentence",
    [("header_only", "no row below it"), ("hp_conflict", "has the column model_id")],
)
def test_a_table_that_says_nothing_or_two_things_is_refused(name, sentence):
    with pytest.raises(GengapError, match=sentence):
        gengap.open_collection("folder", root=FIELD / "csv" / name).index()
