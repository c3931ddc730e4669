"""The commands `gengap train` and `gengap fetch`: where collections come from."""

import re
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any

import typer

from gengap.cli.options import Device, Scheduler, Workers
from gengap.cli.tables import EVERY
from gengap.errors import GengapError, nearest
from gengap.replicas import STUDIES, Scale

# What can be downloaded, and what of the command's arguments each takes.
ORIGINALS = {
    "cnnzoo": ("datasets", "folder", "keep_archive"),
    "pgdl": ("datasets", "folder", "tasks", "models"),
    "demogen": ("datasets", "folder", "keep_archive"),
    "robust-measures": ("folder",),
    "images": ("datasets",),
}


def train(
    collection: Annotated[str, typer.Argument(help=f"One of: {', '.join(STUDIES)}; all: each.")],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="The family, without which all are trained. Of the scale replica, cnnzoo: mnist,"
            " fashion_mnist or cifar10 (as grey); pgdl: taskN_fashion_mnist with N 1, 2 or 4 to 9;"
            " demogen: NIN_FASHION_MNIST or RESNET_FASHION_MNIST; genprob: AdaM_FashionMNIST or"
            " SGD_FashionMNIST."
        ),
    ] = None,
    scale: Annotated[
        Scale,
        typer.Option(
            help="replica: narrow networks and few images, in hours on a CPU; published: widths,"
            " images and numbers of networks as in the papers, for a GPU and a long time.",
        ),
    ] = "replica",
    networks: Annotated[
        int | None, typer.Option(min=1, help="How many of each family (its whole grid).")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of each (cnnzoo: 86 and genprob: 70, as published), or at most (pgdl, and the"
            " replica of demogen: a network ends where it fits its images).",
        ),
    ] = None,
    device: Device = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the collection, or with all of the collections (trained); a run begun"
            " there is resumed."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of hyper-parameters, weights and batches (42).")
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images (GENGAP_IMAGES, or a download).")
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Copy what was trained to <out>.sample, of each family only the first so many"
            " networks (of the zoo whole files, of 50).",
        ),
    ] = None,
) -> None:
    """Train a collection's networks from scratch and write them in its published format.

    A network is written as soon as it is trained: the command may be stopped or killed, and started
    again with the same arguments. At its end it says where their index is kept as a table, and of a
    replica which hallmarks of the published collection the networks have.

    \b
    Examples:
      gengap train cnnzoo --dataset fashion_mnist --networks 600 --epochs 20
      gengap measure cnnzoo --root trained/cnnzoo
      gengap train all --scale published --device cuda
    """
    from gengap.collection import usable_device
    from gengap.replicas.run import check_images, keep_sample, recipes_of, run_of
    from gengap.replicas.run import train as train_networks
    from gengap.tables.engine import on_scheduler

    usable_device(device)
    if collection not in [*STUDIES, EVERY]:
        known = nearest(collection, [*STUDIES, EVERY])
        raise GengapError(f"the collection {collection!r} cannot be trained; {known}")
    if collection == EVERY and dataset:
        raise GengapError("all trains every family; leave out --dataset, or name a collection")
    wanted = {"device": device, "scale": scale, "epochs": epochs, "seed": seed, "images": images}
    own: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    home = (out or Path("trained") / ("" if collection == EVERY else collection)).absolute()
    if home.is_file():
        raise GengapError(f"--out {home} is a file; name a folder")
    roots = {name: home / name for name in STUDIES} if collection == EVERY else {collection: home}
    runs = {
        study: [
            run_of(study, family, root, **own)
            for family in ([dataset] if dataset else recipes_of(study, scale))
        ]
        for study, root in roots.items()
    }
    every = [run for of_study in runs.values() for run in of_study]
    check_images(run for run in every if run.missing(run.networks(networks)))
    try:
        with on_scheduler(scheduler):
            for study, root in roots.items():
                for run in runs[study]:
                    typer.echo(f"{study}: {run.family}")
                    train_networks(run, networks=networks, workers=workers)
                _show_trained(study, root, scale)
                if sample:
                    typer.echo(f"sample: {keep_sample(runs[study], networks, sample)}")
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the networks finished so far are kept in {home}; the same command goes on from there"
        ) from None


def _show_trained(study: str, root: Path, scale: str) -> None:
    """What lies there: its index, kept as a table too, and which hallmarks a replica has."""
    from gengap.collection import open_collection
    from gengap.folders import write_atomically

    typer.echo(f"trained: {root}")
    try:
        index = open_collection(study, root).index()
    except GengapError as error:  # another family is being trained there
        typer.echo(f"no index and no hallmarks yet: {error}")
        return
    table = root.with_name(f"{root.name}.index.parquet")
    write_atomically(table, lambda path: index.to_parquet(path, index=False))
    typer.echo(f"index: {table}")
    if scale == "replica":
        hallmarks = resolve_name(f"gengap.replicas.{study}:hallmarks")
        typer.echo(hallmarks(index).to_string(index=False))


def fetch(
    collection: Annotated[str, typer.Argument(help=f"One of: {', '.join(ORIGINALS)}.")],
    datasets: Annotated[
        list[str] | None, typer.Argument(help="Its data sets; without one, all.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where to put them (the cache: GENGAP_CACHE).")
    ] = None,
    tasks: Annotated[
        list[int] | None,
        typer.Option("--task", metavar="N", help="Of pgdl, a task by its number; repeatable."),
    ] = None,
    models: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of pgdl, only the first so many networks of each task, without the rest."
        ),
    ] = None,
    keep_archive: Annotated[
        bool, typer.Option("--keep-archive", help="Do not delete what has been unpacked.")
    ] = False,
) -> None:
    """Download what the authors of a study published, for the profile published.

    What is there already is not downloaded again, and an interrupted download goes on. Room on the
    disk is looked for before it begins. With images, the image data sets; robust-measures is a
    table of the values of 10,000 networks without the networks.

    \b
    Examples:
      gengap fetch cnnzoo mnist --folder originals/cnnzoo
      gengap measure cnnzoo --root originals/cnnzoo
      gengap fetch pgdl --task 1 --models 10
      gengap fetch images cifar10
    """
    if collection not in ORIGINALS:
        known = nearest(collection, ORIGINALS)
        raise GengapError(f"the collection {collection!r} cannot be downloaded; {known}")
    given: dict[str, Any] = {"datasets": datasets, "folder": folder, "tasks": tasks}
    given |= {"models": models, "keep_archive": keep_archive}
    given = {name: value for name, value in given.items() if value}
    if lacking := [name for name in given if name not in ORIGINALS[collection]]:
        raise GengapError(
            f"gengap fetch {collection} has no use for {lacking[0].replace('_', ' ')}; it takes"
            f" {', '.join(ORIGINALS[collection]).replace('_', ' ') or 'nothing'}"
        )
    if numbers := given.pop("tasks", None):
        given["datasets"] = [*given.get("datasets", ()), *map(_task, numbers)]
    function = "pgdl_part" if "models" in given else collection.replace("-", "_")
    fetched = resolve_name(f"gengap.collections.fetch:fetch_{function}")(**given)
    typer.echo(f"fetched: {fetched}")


def _task(number: int) -> str:
    """A task of PGDL by its number."""
    from gengap.collections.pgdl import ARCHIVES

    names = {int(re.sub(r"\D.*", "", task.removeprefix("task"))): task for task in ARCHIVES}
    if number not in names:
        raise GengapError(f"PGDL has no task {number}; it has {', '.join(map(str, names))}")
    return names[number]
