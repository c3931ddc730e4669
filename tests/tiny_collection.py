"""A collection of eight small random networks, made in memory, for tests of the frame.

Families `left` and `right`; `right` has neither initial weights nor a sample.
"""

import torch
from pandas import DataFrame
from torch import nn

from gengap.collection import COLUMNS, Collection
from gengap.errors import NotAvailable

MODELS = 8
IMAGES = 40


def network(seed: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    stages = {"h1": nn.Linear(6, 5), "activation": nn.Tanh(), "logits": nn.Linear(5, 3)}
    made = nn.Sequential()
    for name, stage in stages.items():
        made.add_module(name, stage)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made.eval()


def sample() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(99)
    inputs = torch.randn(IMAGES, 6, generator=generator)
    return inputs, torch.randint(3, (IMAGES,), generator=generator)


class TinyCollection(Collection):
    name = "tiny"
    expected_families = ("left", "right", "absent")

    def read_index(self) -> DataFrame:
        inputs, labels = sample()
        rows = []
        for seed in range(MODELS):
            family = "left" if seed < MODELS // 2 else "right"
            logits = network(seed)(inputs).detach()
            accuracy = float((logits.argmax(1) == labels).double().mean())
            loss = float(nn.functional.cross_entropy(logits, labels))
            recorded = (accuracy, accuracy / 2, loss, 2 * loss)
            rows.append((f"{family}/{seed}", family, 1, *recorded, seed))
        return DataFrame(rows, columns=[*COLUMNS, "hp_seed"])

    def read_network(self, record):
        seed = int(record["hp_seed"])
        initial = dict(network(seed + 1000).to(self.device).named_parameters())
        return network(seed).to(self.device), initial if record["family"] == "left" else None

    def read_sample(self, record):
        if record["family"] == "right":
            raise NotAvailable("the family right has no images here")
        return tuple(part.to(self.device) for part in sample())
