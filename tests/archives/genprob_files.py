"""GenProb's files in miniature: seven optimizers on two data sets, as its released code reads them.

The weights were announced and are not published; names and keys are those that parsing_agent.py and
the trainer behind it use. Networks are narrow, and of the 70 epochs few are kept.
"""

from itertools import product
from pathlib import Path

import torch

from gengap.collections.genprob_networks import genprob_network

RATES = {"SGD": 0.02, "SGDP": 0.02, "SAM": 0.02, "RMSGD": 0.02}  # the least; of the others 0.002
OPTIMIZERS = (*RATES, "AdaM", "AdamP", "AdaBound")
CLASSES = {"CIFAR10": 10, "CIFAR100": 100}
EPOCHS = (0, 10, 20, 30, 69)  # of 0 to 69
WIDTHS = ("01010", "10101")  # of 32 codes
NARROW = 2  # channels of digit 0, which stands for 40


def write_genprob(folder: Path, rates: int = 2) -> None:
    """`models/GenProb` with so many learning rates of five, two widths and one weight decay."""
    (place := folder / "models" / "GenProb").mkdir(parents=True)
    names = product(CLASSES, OPTIMIZERS, WIDTHS, range(1, rates + 1))
    for number, (dataset, optimizer, code, step) in enumerate(names):
        rate = round(step * RATES.get(optimizer, 0.002), 4)
        name = f"NIN{code}_{optimizer}_lr_{rate}_wd_0.0001_{dataset}"
        torch.manual_seed(number)
        network = genprob_network([NARROW + int(digit) for digit in code], CLASSES[dataset])
        quality = 5 * torch.rand(()).item() + 3 * step + 2 * WIDTHS.index(code)
        for epoch in EPOCHS:
            trained = epoch / EPOCHS[-1]
            state = {
                name: tensor * (1 + 0.02 * quality * trained) if tensor.ndim == 4 else tensor
                for name, tensor in network.state_dict().items()
            }
            train, test = 40 + 55 * trained + 0.2 * quality, 35 + 35 * trained + quality
            statistics = {  # percent, and cross-entropies
                f"test_acc1_epoch_{epoch}": test,
                f"test_loss_epoch_{epoch}": 3 - test / 50,
                f"train_acc1_epoch_{epoch}": train,
                f"train_loss_epoch_{epoch}": 2.5 - train / 50,
            }
            content = {"state_dict_network": state, "performance_statistics": statistics}
            torch.save(content, place / f"{name}_epoch_{epoch}.pth.tar")
