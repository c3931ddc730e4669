"""What tests of several measures share."""

import json

import pytest

import gengap
from gengap.collections.pgdl import PGDL


@pytest.fixture(scope="session")
def kit(reference) -> list[tuple[gengap.Model, dict[str, float]]]:
    """Four convolutional networks, each with what the competition's kit measures of it."""
    root = reference / "golden/pgdl"
    expected = json.loads((root / "expected_measures_conv_data.json").read_text())
    networks = PGDL(root)
    return [(networks.load(f"conv_data/{name}"), values) for name, values in expected.items()]
