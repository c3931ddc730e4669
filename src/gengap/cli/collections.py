"""The commands `gengap train` and `gengap fetch`: where collections come from."""

import inspect
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated

import typer

from gengap.cli.options import Device, Scheduler, Workers
from gengap.errors import GengapError

# The collections that can be trained anew, and the originals that can be downloaded.
RECIPES = {
    "cnnzoo": "gengap.replicas.cnnzoo:train_zoo",
    "pgdl": "gengap.replicas.pgdl:train_pgdl",
    "demogen": "gengap.replicas.demogen:train_demogen",
    "genprob": "gengap.replicas.genprob:train_genprob",
}
ORIGINALS = {
    "cnnzoo": "gengap.collections.fetch:fetch_cnnzoo",
    "pgdl": "gengap.collections.fetch:fetch_pgdl",
    "pgdl-participants": "gengap.collections.fetch:fetch_pgdl_participants",
    "demogen": "gengap.collections.fetch:fetch_demogen",
}


def train(
    collection: Annotated[str, typer.Argument(help=f"One of: {', '.join(RECIPES)}.")],
    dataset: Annotated[
        str,
        typer.Option(
            help="cnnzoo: mnist, fashion_mnist or cifar10 (as grey); pgdl: taskN_fashion_mnist with"
            " N 1, 2 or 4 to 9; demogen: NIN_FASHION_MNIST or RESNET_FASHION_MNIST; genprob:"
            " AdaM_FashionMNIST or SGD_FashionMNIST."
        ),
    ],
    networks: Annotated[
        int | None, typer.Option(min=1, help="How many (cnnzoo: 100; the others: the whole grid).")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of each (cnnzoo: 86 and genprob: 70, as published), or at most (pgdl, demogen:"
            " a network ends where it fits its images).",
        ),
    ] = None,
    device: Device = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write (under trained/); a run begun there is resumed."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of hyper-parameters, weights and batches (42).")
    ] = None,
    stack: Annotated[
        int | None,
        typer.Option(min=1, help="cnnzoo: networks trained as one (1 on a CPU, 256 on a GPU)."),
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    all_checkpoints: Annotated[
        int | None,
        typer.Option(min=0, help="cnnzoo: networks that keep every checkpoint (all)."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images (GENGAP_IMAGES, or a download).")
    ] = None,
) -> None:
    """Train a collection's networks from scratch and write them in its published format.

    A network is written as soon as it is trained: the command may be stopped or killed, and started
    again with the same arguments. At its end it says which hallmarks of the published collection
    the networks have.

    \b
    Examples:
      gengap train cnnzoo --dataset fashion_mnist --networks 600 --epochs 20
      gengap measure cnnzoo --root trained/cnnzoo
      gengap train pgdl --dataset task1_fashion_mnist
    """
    recipe = _function_for(collection, RECIPES, "trained")
    from gengap.collection import usable_device
    from gengap.tables.engine import on_scheduler

    usable_device(device)
    folder = out or Path("trained") / collection / dataset
    wanted = {
        "networks": networks,
        "epochs": epochs,
        "seed": seed,
        "stack": stack,
        "workers": workers,
        "all_checkpoints": all_checkpoints,
        "images": images,
    }
    options = {name: value for name, value in wanted.items() if value is not None}
    if foreign := options.keys() - inspect.signature(recipe).parameters:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(foreign))
        raise GengapError(f"{collection} is trained without {names}; leave it out")
    try:
        with on_scheduler(scheduler):
            written = recipe(dataset, folder, device=device, **options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the networks finished so far are kept in {folder}; the same command goes on from"
            " there"
        ) from None
    typer.echo(f"trained: {written}")
    _show_hallmarks(collection, dataset, recipe, written)


def fetch(
    collection: Annotated[str, typer.Argument(help=f"One of: {', '.join(ORIGINALS)}.")],
    datasets: Annotated[
        list[str] | None, typer.Argument(help="Its data sets; without one, all.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where to put them (the cache: GENGAP_CACHE).")
    ] = None,
) -> None:
    """Download a collection as its authors published it, for the profile published.

    What is there already is not downloaded again.

    \b
    Example:
      gengap fetch cnnzoo mnist --folder originals/cnnzoo
      gengap measure cnnzoo --root originals/cnnzoo
    """
    fetch_collection = _function_for(collection, ORIGINALS, "downloaded")
    arguments = {"datasets": datasets} if datasets else {}
    typer.echo(f"fetched: {fetch_collection(**arguments, folder=folder)}")


def _show_hallmarks(collection: str, dataset: str, recipe: Callable, written: Path) -> None:
    """What makes the networks that lie there, of all families, a replica of the published ones.

    Nothing is said of a family of the zoo whose folder has another name: no collection has it.
    """
    from gengap.collection import open_collection

    root = written
    if collection == "cnnzoo":  # what is written there is the folder of a family
        root = written.parent
        if written.name != dataset:
            return
    try:
        index = open_collection(collection, root).index()
    except GengapError as error:  # another family is being trained there
        typer.echo(f"no hallmarks yet: {error}")
        return
    hallmarks = resolve_name(f"{recipe.__module__}:hallmarks")
    typer.echo(hallmarks(index).to_string(index=False))


def _function_for(collection: str, functions: dict[str, str], done: str) -> Callable:
    if collection not in functions:
        known = ", ".join(functions)
        raise GengapError(f"the collection {collection!r} cannot be {done}; those are: {known}")
    return resolve_name(functions[collection])
