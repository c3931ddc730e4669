"""One run of training, the same for every study: what a family still lacks, in processes.

A study says of its own networks what `Run` asks for; `train` does the rest. Each network is written
once, when it is finished: a run that is killed loses no finished network, and the same call goes on
from there.
"""

import json
import shutil
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

import numpy as np
import torch
from tqdm import tqdm

from gengap.collection import usable_device
from gengap.errors import GengapError, nearest
from gengap.folders import write_atomically
from gengap.formats.images import SPLITS, load_images
from gengap.formats.places import read_json
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

    @property
    def image_set(self) -> str:
        """As `load_images` calls it; by default what the family's name ends with."""
        return self.family.partition("_")[2].lower()

    def prepare(self) -> None:
        """Write what the family has beside its networks."""

    def hold(self) -> dict[str, Any]:
        """What a process reads once, for `train`."""
        return {split: self.read(split) for split in SPLITS}

    def read(self, split: str) -> object:
        """The images of a split, "train" or "test"."""
        raise NotImplementedError

    def train(self, held, networks: list[int]) -> None:
        """Train networks of one group and write them."""
        raise NotImplementedError

    def files(self, networks: range) -> Iterable[Path]:
        """Files and folders of these last networks alone."""
        raise NotImplementedError

    def keep(self, networks: range) -> None:
        """After each group: pack what is finished."""

    def finish(self, networks: range) -> None:
        """After the last: write what tells of all networks."""


def run_of(study: str, family: str, out: Path, *, epochs: int | None = None, **options) -> Run:
    """The run of a family of a study, a name of STUDIES; options: other fields of its `Run`.

    Raises: GengapError for a family that is none of `recipes_of` at the scale.
    """
    recipes = recipes_of(study, str(options.get("scale", "replica")))
    if family not in recipes:
        raise GengapError(f"no family {family!r} can be trained; {nearest(family, recipes)}")
    kind = resolve_name(STUDIES[study])
    # Absolute, since workers of a cluster are started in folders of their own.
    return kind(family, Path(out).absolute(), epochs or recipes[family].epochs, **options)


def train(run: Run, *, networks: int | None = None, workers: int | None = None) -> None:
    """Train a family and write it, in the published format, under the run's `out`; resumes there.

    networks: only the first so many of the grid. workers: processes of one thread on a CPU, by
    default one a core; a GPU is driven by this process alone.

    Raises: GengapError where `out` holds networks of other settings, where images are not to be
    had, and if a worker dies twice on one network.
    """
    wanted = run.networks(networks)
    missing = _missing(run, wanted)
    if missing:
        check_images([run])
        run.prepare()
        write_json(run.settings_file, run.settings())
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="network") as bar:
        for _, count in _trained(run, missing, workers) if missing else ():
            run.keep(wanted)
            bar.update(count)
    run.keep(wanted)
    run.finish(wanted)


def _missing(run: Run, wanted: range) -> list[int]:
    """GengapError if a run left other settings there, or none: networks would mix with others."""
    missing, expected = run.missing(wanted), run.settings()
    trained = len(missing) < len(wanted)
    file = run.settings_file
    found = read_json(file, "choose another --out") if file.exists() else None
    if found != expected and (found or trained):
        told = f"says {found}" if found else "is not there, but networks are"
        raise GengapError(f"{run.settings_file} {told}, not {expected}: choose another --out.")
    return missing


def check_images(runs: Iterable[Run]) -> None:
    """GengapError where images are not to be had: once, and not in every process."""
    for images, root in {(run.image_set, run.images) for run in runs}:
        for split in SPLITS:
            load_images(images, split, root=root)


def _trained(run: Run, missing: list[int], workers: int | None) -> Iterator[tuple[int, int]]:
    """The place of each group, and how many networks it had, as they are finished."""
    where: dict[str, Any] = {"device": run.device, "environment": MALLOC if run.on_cpu else None}
    groups, start = run.together(missing), partial(_held, run)
    return engine.results(_train_group, groups, start=start, workers=workers, **where)


def recipes_of(study: str, scale: str) -> Mapping[str, Any]:
    """Family -> recipe of a study, at a scale."""
    return resolve_name(STUDIES[study]).RECIPES[scale]


def recipes_in(file: str, made: Callable = dict) -> dict[str, dict]:
    """Scale -> family -> its recipe, made of the fields in a file beside this one."""
    scales = tomllib.loads(Path(__file__).with_name(file).read_text())
    return {
        scale: {family: made(**fields) for family, fields in families.items()}
        for scale, families in scales.items()
    }


def keep_sample(runs: Iterable[Run], networks: int | None, sample: int) -> Path:
    """Copy what lies there, but for networks after the first of each family; the copy.

    runs: of families with one folder `out`, beside which the copy lies; what was there before is
    removed. networks: as for `train`. sample: how many stay of each family, at least.
    """
    runs = [run for run in runs if run.settings_file.exists()]
    left_out = {file for run in runs for file in run.files(run.networks(networks)[sample:])}
    target = runs[0].out.with_name(f"{runs[0].out.name}.sample")

    def others(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if Path(folder, name) in left_out}

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(runs[0].out, target, ignore=others)
    for run in runs:
        replace(run, out=target).finish(run.networks(sample))
    return target


def _held(run: Run) -> tuple[Run, object]:
    usable_device(run.device)
    if run.on_cpu:
        torch.set_flush_denormal(True)  # numbers too small for float32's usual form are slow
    return run, run.hold()


def _train_group(held: tuple[Run, object], networks: list[int]) -> tuple[int]:
    run, images = held
    run.train(images, networks)
    return (len(networks),)


def hash_seed(seed: int, network: int) -> int:
    """A seed for each network of a run, far from those of its neighbours."""
    return int(np.random.SeedSequence([seed, network]).generate_state(1)[0])


def write_json(file: Path, content: dict) -> None:
    """Write a file that is there whole or not at all."""
    write_atomically(file, lambda path: path.write_text(json.dumps(content, indent=1)))
