"""The claims of DEMOGEN and GenProb, on made-up networks of which they are true or false."""

import numpy as np
import pandas as pd
import pytest

from gengap.measures.margin_signatures import STATISTICS
from gengap.studies import demogen_claims, genprob_claims
from gengap.studies.demogen import HIDDEN

STAGES = ["inputs", "h1", "h2", "h3", "logits"]


def demogen_like(count=120, *, seed=0):
    """Gaps that follow the logarithms of normalized medians at two layers, and nothing else."""
    rng = np.random.default_rng(seed)
    names = [f"nin/{number}" for number in range(count)]
    logs = {stage: rng.normal(size=count) for stage in STAGES}
    gap = 0.1 + 0.01 * (logs["h1"] + logs["h2"]) + 0.001 * rng.normal(size=count)
    rows = []
    for stage in STAGES:
        normalizer = np.exp(rng.normal(size=count))
        for statistic in STATISTICS["quartile"]:
            own = logs[stage] if statistic == "median" else rng.normal(size=count)
            part = pd.DataFrame({"model_id": names, "value": np.exp(own) * normalizer})
            labels = {"stage": stage, "kind": "quartile", "statistic": statistic, "note": ""}
            rows.append(part.assign(normalizer=normalizer, images=10, dropped=0, **labels))
    index = pd.DataFrame({"model_id": names, "family": "nin", "test_accuracy": 0.5})
    index["train_accuracy"] = 0.5 + gap
    index["hp_width"], index["hp_copy"] = np.arange(count) // 2, np.arange(count) % 2
    return pd.concat(rows, ignore_index=True), index.assign(epoch=np.nan)


def test_demogens_claims_hold_where_they_are_true():
    signatures, index = demogen_like()
    table = demogen_claims.claims(signatures, {"all": index, "few": index[:15]})
    assert (table["verdict"] == "depends").all()  # fifteen networks are too few for most forms
    table = demogen_claims.claims(signatures, {"all": index})
    first, several, normalized, logarithms, distribution, hidden = table["verdict"]
    assert (first, several, normalized, logarithms, hidden) == ("holds",) * 5
    assert distribution == "fails"  # the other four numbers are noise
    assert set(table["published"]) == {"stated"}


def test_a_group_with_too_few_networks_has_no_number():
    signatures, index = demogen_like()
    table = demogen_claims.claims(signatures, {"few": index[:15]})
    assert table["few"].iloc[0] == "none"
    assert HIDDEN in demogen_claims.FORMS


def genprob_like(sign, *, count=60):
    """Effective rank follows the outcomes with this sign; all other measures follow nothing."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        good = rng.normal()
        for epoch in (0, 20, 69):
            row = {"network": f"adam/{number}", "epoch": epoch, "family": "adam"}
            row |= {"test_accuracy": good, "gap": good + 0.1 * rng.normal()}
            row |= {"log_effective_rank": sign * good + 0.1 * rng.normal()}
            row |= {name: rng.normal() for name in ("stable_quality", *genprob_claims.NORMS)}
            rows.append(row)
    return pd.DataFrame(rows).set_index(["network", "epoch"]).sort_index()


@pytest.mark.parametrize(("sign", "verdict"), [(1, "holds"), (-1, "fails")])
def test_genprobs_claims_are_of_the_probe_that_they_name(sign, verdict):
    outcomes = pd.MultiIndex.from_product(
        [["cifar10", "cifar100"], ["test_accuracy", "gap"]], names=["family", "outcome"]
    )
    columns = ["log_effective_rank", "stable_quality", *genprob_claims.NORMS]
    published = pd.DataFrame([[0.9, 0.8, 0.7, 0.4]] * 4, outcomes, columns)
    table = genprob_claims.claims(genprob_like(sign), published)
    rank = table[table.index.str.startswith("Effective rank")]
    assert len(rank) == 5 and (rank["verdict"] == verdict).all()
    assert not (table[table.index.str.startswith("Stable quality")]["verdict"] == "holds").any()
    assert list(rank["published"][:2]) == ["0.90 to 0.90", "0.20 to 0.20"]


def test_a_norm_that_ranks_in_reverse_is_a_rival_too():
    outcomes = pd.MultiIndex.from_product(
        [["cifar10"], ["test_accuracy", "gap"]], names=["family", "outcome"]
    )
    columns = ["log_effective_rank", "stable_quality", *genprob_claims.NORMS]
    published = pd.DataFrame([[0.9, 0.8, -0.7, 0.4]] * 2, outcomes, columns)
    epochs = genprob_like(1)
    epochs["log_frobenius_norm"] = -epochs["log_effective_rank"]
    table = genprob_claims.claims(epochs, published)
    better = table[
        table.index.str.startswith("Effective rank ranks") & table.index.str.contains("better")
    ]
    assert (better["verdict"] == "depends").all() and better["adam"].str.startswith("0.00").all()
    assert list(better["published"]) == ["0.20 to 0.20"] * 2
