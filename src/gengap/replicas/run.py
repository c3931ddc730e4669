"""One run of training, the same for every study: what a family still lacks, in processes.

A study says of its own networks what `Run` asks for; `train` does the rest. Each network is written
once, when it is finished: a run that is killed loses no finished network, and the same call goes on
from there.
"""

import json
import shutil
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import ClassVar

import numpy as np
import torch
from tqdm import tqdm

from gengap.errors import GengapError
from gengap.folders import write_atomically
from gengap.replicas import STUDIES, Scale
from gengap.tables import engine

# glibc returns large freed blocks to the system and faults them in again at every layer: with these
# thresholds a CPU trains twice as fast. Read when a process starts; elsewhere without effect.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}


@dataclass(frozen=True)
class Run:
    """A family that is being trained: what a process must know, and where files lie.

    A network is a number, its place in the family's grid.
    """

    family: str
    out: Path  # the root of the collection
    epochs: int  # of each network, or at most
    device: str = "cpu"
    seed: int = 42
    images: Path | None = None  # the folder of the images (GENGAP_IMAGES, or a download)
    scale: Scale = "replica"

    RECIPES: ClassVar[Mapping[str, Mapping[str, object]]]  # scale -> family -> its recipe

    @property
    def recipe(self):
        return self.RECIPES[self.scale][self.family]

    @property
    def on_cpu(self) -> bool:
        return torch.device(self.device).type == "cpu"

    @property
    def settings_file(self) -> Path:
        """Where the settings lie that all networks of the family share."""
        return self.out / self.family / "training.json"

    def settings(self) -> dict:
        """All that decides how networks come out, but for the code; as JSON gives it back."""
        raise NotImplementedError

    def networks(self, count: int | None) -> range:
        """Those that are wanted: the first `count` of the grid, or the whole grid."""
        raise NotImplementedError

    def is_done(self, network: int) -> bool:
        raise NotImplementedError

    def missing(self, networks: range) -> list[int]:
        return [network for network in networks if not self.is_done(network)]

    def together(self, missing: list[int]) -> Iterable[list[int]]:
        """The networks in groups, each of which is trained at once."""
        return ([network] for network in missing)

    def prepare(self) -> None:
        """Read the images, and write those that the family has beside it."""
        raise NotImplementedError

    def hold(self) -> object:
        """What a process reads once, for `train`."""
        raise NotImplementedError

    def train(self, held, networks: list[int]) -> None:
        """Train networks of one group and write them."""
        raise NotImplementedError

    def files(self, network: int) -> Iterable[Path]:
        """Where the weights of a network lie; of a file of several, it is the first or the last."""
        raise NotImplementedError

    def keep(self, networks: range) -> None:
        """After each group: pack what is finished."""

    def finish(self, networks: range) -> None:
        """After the last: write what tells of all networks."""


def train(
    study: str,
    family: str,
    out: Path,
    *,
    scale: Scale = "replica",
    networks: int | None = None,
    epochs: int | None = None,
    workers: int | None = None,
    **options: object,
) -> Path:
    """Train a family of a study and write it, in the published format, under `out`; resumes there.

    study: a name of STUDIES; family: of those of `recipes_of` at the scale.
    networks: only the first so many of the grid. epochs: by default the recipe's.
    workers: processes of one thread on a CPU, by default one a core; a GPU is driven by this
    process alone. options: other fields of the study's `Run`.

    Raises: GengapError for an unknown family, where `out` holds networks of other settings, where
    images are not to be had, and if a worker dies twice on one network.
    """
    run = _run_of(study, family, Path(out), scale, epochs, options)
    wanted, settings = run.networks(networks), run.settings()
    check_settings(run.settings_file, settings)
    missing = run.missing(wanted)
    if missing:
        run.prepare()
        write_json(run.settings_file, settings)
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="network") as bar:
        finished = engine.results(
            _trained,
            run.together(missing) if missing else (),
            start=_held,
            arguments=(run,),
            workers=workers,
            device=run.device,
            environment=MALLOC if run.on_cpu else None,
        )
        for _, count in finished:
            run.keep(wanted)
            bar.update(count)
    run.keep(wanted)
    run.finish(wanted)
    return run.out


def _run_of(study, family, out, scale, epochs, options) -> Run:
    recipes = recipes_of(study, scale)
    if family not in recipes:
        raise GengapError(f"no family {family!r} can be trained; there are: {', '.join(recipes)}")
    kind = resolve_name(STUDIES[study])
    return kind(family, out, epochs or recipes[family].epochs, scale=scale, **options)


def recipes_of(study: str, scale: Scale) -> Mapping[str, object]:
    """Family -> recipe of a study, at a scale."""
    return resolve_name(STUDIES[study]).RECIPES[scale]


def recipes_in(file: str) -> dict[str, dict[str, dict]]:
    """Scale -> family -> fields of its recipe, from a file beside this one."""
    return tomllib.loads(Path(__file__).with_name(file).read_text())


def keep_sample(study: str, out: Path, scale: Scale, networks: int) -> Path:
    """Copy what lies there, of each family only the weights of the first networks; the copy.

    It lies beside `out`. Records of the other networks may be in it.
    """
    left_out = set()
    for family in recipes_of(study, scale):
        run = _run_of(study, family, out, scale, None, {})
        for network in run.networks(None)[networks:]:
            left_out.update(run.files(network))
    target = out.with_name(f"{out.name}.sample")

    def others(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if Path(folder, name) in left_out}

    return Path(shutil.copytree(out, target, ignore=others, dirs_exist_ok=True))


def _held(run: Run) -> tuple[Run, object]:
    if run.on_cpu:
        torch.set_flush_denormal(True)  # numbers too small for float32's usual form are slow
    return run, run.hold()


def _trained(held: tuple[Run, object], networks: list[int]) -> tuple[int]:
    run, images = held
    run.train(images, networks)
    return (len(networks),)


def hash_seed(seed: int, network: int) -> int:
    """A seed for each network of a run, far from those of its neighbours."""
    return int(np.random.SeedSequence([seed, network]).generate_state(1)[0])


def check_settings(file: Path, settings: dict) -> None:
    """GengapError if a run left other settings there: its networks would mix with others."""
    found = json.loads(file.read_text()) if file.exists() else settings
    if found != settings:
        raise GengapError(f"{file} says {found}, not {settings}: choose another --out.")


def write_json(file: Path, content: dict) -> None:
    """Write a file that is there whole or not at all."""
    write_atomically(file, lambda path: path.write_text(json.dumps(content, indent=1)))
