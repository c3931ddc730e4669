"""The command `gengap list`."""

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gengap.errors import GengapError

if TYPE_CHECKING:
    from gengap.formats.places import Place

NOT_HERE = "not here; downloaded when first needed, or set GENGAP_IMAGES to a folder with them"


def list_everything(
    collection: Annotated[
        str | None,
        typer.Argument(
            help="One alone, with the files that are missing; measures: what each one asks for."
        ),
    ] = None,
) -> None:
    """Collections, their families and counts, where the files are, and what is missing.

    Reliability is the share of the variance of a family's generalization gaps that is not noise of
    the images over which accuracies were taken; - where the files do not say how many these were.
    Also the image data sets, the measures, and the chapters of the book.

    \b
    Examples:
      gengap list
      gengap list demogen
      gengap list measures
    """
    from gengap.book.chapters import chapter_names
    from gengap.book.reference import declared_work
    from gengap.collection import COLLECTIONS
    from gengap.measures import MEASURES

    if collection == "measures":
        typer.echo(declared_work().to_string())
        return
    if collection:
        typer.echo(_collection_text(collection, files=True))
        return
    for name in COLLECTIONS:
        typer.echo(_collection_text(name))
    typer.echo(_images_text())
    names = textwrap.fill(", ".join(MEASURES), 100, initial_indent="  ", subsequent_indent="  ")
    typer.echo(f"measures  {len(MEASURES)}\n{names}")
    typer.echo(f"chapters  {', '.join(chapter_names()) or 'none yet'}")


def _collection_text(name: str, files: bool = False) -> str:
    """A collection's families; with their missing files, or those that are not here by name."""
    from gengap.collection import last_epoch, open_collection
    from gengap.evaluation.reliability import reliability_table
    from gengap.tables.store import table_file

    collection = open_collection(name)
    table = table_file(collection)
    made = table if table.exists() else f"none yet (gengap measure {name})"
    try:
        families = collection.families()
        known = reliability_table(last_epoch(collection.index()))["reliability"].dropna()
    except GengapError as error:
        return f"collection {name}\n  {error}"
    families["missing"] = [_names(files, collection.root) for files in families["missing"]]
    shown = [f"{known[name]:.2f}" if name in known else "-" for name in families["family"]]
    families.insert(2, "reliability", shown)
    absent = families.loc[families["models"] == 0, "family"]
    if not files:
        families = families[families["models"] > 0].drop(columns="missing")
    text = textwrap.indent(families.to_string(index=False), "  ")
    if len(absent) and not files:
        text += f"\n  not here: {', '.join(absent)}"
    return f"collection {name}\n  in {collection.root}\n{text}\n  table: {made}"


def _names(files: "list[Place]", root: Path) -> str:
    # What lies in a zip file has no path on the disk.
    return ", ".join(
        os.path.relpath(file, root) if isinstance(file, Path) else str(file) for file in files
    )


def _images_text() -> str:
    """Whether the image data sets are at hand."""
    from gengap.formats.images import DATASETS, load_images

    lines = ["images"]
    for dataset in DATASETS:
        told = "at hand"
        try:
            load_images(dataset, "test", download=False)
        except GengapError as error:
            told = str(error) if os.environ.get("GENGAP_IMAGES") else NOT_HERE
        lines.append(f"  {dataset}: {told}")
    return "\n".join(lines)
