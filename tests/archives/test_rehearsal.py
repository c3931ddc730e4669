"""A dress rehearsal of the profile `published`: every chapter on archives in the published layouts.

A local server, which first stalls, resets and lies, serves miniatures of the collections; `gengap
fetch` fetches them, and chapters run as `gengap run NAME --profile published` does, in a copied
checkout. GenProb's weights are not published: its files are put where the profile looks for them,
and chapters run once more without. Whole chapters take minutes; the cheapest are first.
"""

import re
import shutil
import warnings
from threading import Event

import nbformat
import pytest
from archives.demogen_archive import write_demogen
from archives.genprob_files import CLASSES, OPTIMIZERS, write_genprob
from archives.measured import keep_fits, keep_margins, keep_measures
from archives.pgdl_archive import ARCHIVES, write_pgdl
from archives.robust_table import FILE, study_table
from archives.servers import Trouble, serving
from archives.zoo_archive import DATASETS, UNUSABLE, write_zoo
from typer.testing import CliRunner

import gengap
from gengap.book import chapters, run_pages
from gengap.book.figures import NAMES
from gengap.cli import app
from gengap.collections import downloads, fetch
from gengap.folders import repository

FAMILIES = {
    "cnnzoo": list(DATASETS),
    "demogen": ["NIN_CIFAR10", "RESNET_CIFAR10", "RESNET_CIFAR100"],
    "genprob": [f"{name}_{dataset}" for dataset in CLASSES for name in OPTIMIZERS],
    "pgdl": [task for _, tasks in ARCHIVES.values() for task in tasks],
    "robust-measures": ["nin_cifar10", "nin_svhn"],
}
NETWORKS = 40  # of each data set of the zoo
MEASURED = ("task7",)  # one network, in earnest: four channels, 37 classes
FEW = {"samples": 5, "permutations": 10, "curve_repeats": 1}  # where a chapter has such a parameter
TROUBLES = {
    "cnnzoo": ["stall", "reset"],
    "demogen": ["reset"],
    "pgdl": ["promise more"],
    "robust-measures": [],
}
# Chapter -> collections of which each family is in one of its tables.
CHAPTERS = {
    "08-measures": (),
    "09-collections": ("cnnzoo", "demogen", "genprob", "pgdl"),
    "03-demogen": ("demogen",),
    "02-pgdl": ("pgdl",),
    "04-genprob": ("genprob",),
    "06-your-own-measure": ("pgdl",),
    "07-errata": ("pgdl", "cnnzoo"),
    "05-everywhere": tuple(FAMILIES),
    "01-small-cnn-zoo": ("cnnzoo",),
}
ABSENT = [
    ("09-collections", {"genprob"}),
    ("04-genprob", {"genprob"}),
    ("07-errata", {"cnnzoo", "demogen", "genprob"}),
    ("05-everywhere", {"demogen", "genprob", "pgdl"}),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A machine that has fetched the archives and measured them: its cache, data and checkout."""
    home = tmp_path_factory.mktemp("machine")
    with pytest.MonkeyPatch.context() as patch:
        for variable, folder in (("CACHE", "cache"), ("DATA", "data"), ("IMAGES", "images")):
            patch.setenv(f"GENGAP_{variable}", str(home / folder))
        patch.setattr(chapters, "repository", lambda: home / "checkout")
        patch.setattr(run_pages, "render_runs", lambda runs: [])  # which take 15 seconds each
        fetch_all(home, patch)
        shutil.copytree(repository() / "notebooks", home / "checkout" / "notebooks")
        for part in ("published", "replicas/images"):
            shutil.copytree(repository() / "data" / part, home / "data" / part)
        (home / "data" / "tables").mkdir()
        for table in ("pgdl_costs.csv", "sampling_error.csv"):
            shutil.copy(repository() / "data" / "tables" / table, home / "data" / "tables")
        measure_all(home, patch)
        yield home


def fetch_all(home, patch):
    (served := home / "served").mkdir()
    write_demogen(served / "demogen_models.tar.gz", home / "images")
    write_pgdl(served, small=True)
    write_zoo(served, NETWORKS)
    write_genprob(home / "cache" / "genprob")
    study_table().to_csv(served / FILE, index=False)
    patch.setattr(Trouble, "released", Event())
    patch.setattr(downloads, "SECONDS_OF_SILENCE", 0.5)
    with serving(Trouble, served) as address:
        for name, troubles in TROUBLES.items():
            function = getattr(fetch, f"fetch_{name.replace('-', '_')}")
            patch.setitem(function.__kwdefaults__, "address", address)
            patch.setattr(Trouble, "troubles", [*troubles], raising=False)
            for _ in troubles:
                failed = CliRunner().invoke(app, ["fetch", name])
                assert "could not be downloaded" in failed.output
            fetched = CliRunner().invoke(app, ["fetch", name])
            assert f"fetched: {home / 'cache' / name}" in fetched.output, fetched.output
        Trouble.released.set()
    shutil.rmtree(served)
    shutil.rmtree(home / "cache" / "archives")


def measure_all(home, patch):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* that is not finite")
        for name in FAMILIES:
            collection = gengap.open_collection(name, home / "cache" / name)
            families = collection.families().set_index("family")
            assert list(families.index[families["models"] > 0]) == [*collection.known_families()]
            assert set(families.index) == set(FAMILIES[name])
            if collection.given_values() is not None:
                continue
            keep_measures(collection, MEASURED)
            if name == "demogen":
                keep_margins(collection)
            if name == "cnnzoo":
                sizes = chapters.profiles()["published"]["01-small-cnn-zoo"]["curve_sizes"]
                keep_fits(collection, patch, sizes)


def executed(home, name, absent=()):
    """The notebook of a chapter that was executed without collections, and what was warned of."""
    source = home / "checkout" / "notebooks" / f"{name}.ipynb"
    known = nbformat.read(source, as_version=4).cells[1:4]
    few = {key: n for key, n in FEW.items() if any(f"\n{key} = " in cell.source for cell in known)}
    options = [text for key, n in few.items() for text in ("-p", key, str(n))]
    for collection in absent:
        (home / "cache" / collection).rename(home / f"elsewhere-{collection}")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            command = ["run", name, "--profile", "published", "--jobs", "1", *options]
            ran = CliRunner().invoke(app, command)
    finally:
        for collection in absent:
            (home / f"elsewhere-{collection}").rename(home / "cache" / collection)
    assert ran.exit_code == 0, ran.output
    path = home / "checkout" / "_build" / "runs" / "published" / f"{name}.ipynb"
    return nbformat.read(path, as_version=4), [str(warning.message) for warning in caught]


def assert_clean(notebook, home):
    """Nothing of the replica, of this machine or of warnings is said."""
    for cell in notebook.cells:
        said = [cell.source]
        for output in cell.get("outputs", ()):
            assert output.output_type not in ("error", "stream"), output
            said += [text for kind, text in output.data.items() if kind.startswith("text/")]
        code = cell.cell_type == "code"
        for text in said:
            for unwanted in ("Warning", "~/", str(home), str(repository())):
                assert unwanted.lower() not in text.lower(), text
            assert "replica" not in text.lower() or (code and text == cell.source), text


def tables_of(notebook):
    """The tables that a chapter shows."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [o.data["text/html"] for o in outputs if "text/html" in o.get("data", {})]


def assert_no_family_is_missing(notebook, collections):
    shown = "\n".join(tables_of(notebook))
    for family in [family for name in collections for family in FAMILIES[name]]:
        names = [family, NAMES.get(family, family)]
        assert any(re.search(rf"\b{re.escape(name)}\b", shown) for name in names), family


def published_and_ours(notebook):
    """Of each table with columns, or groups of columns, of these names, the cells of each row.

    By what stands before them, published and ours.
    """
    for html in tables_of(notebook):
        if {"published", "ours"} <= set(re.findall(r"<th[^>]*>\s*(\w+)\s*</th>", html)):
            rows = []
            for row in re.findall("<tr.*?</tr>", html.split("<tbody>")[1], re.DOTALL):
                cells = re.findall("<td>(.*?)</td>", row)
                half = len(cells) // 2
                rows.append((re.findall("<th[^>]*>(.*?)</th>", row), cells[:half], cells[half:]))
            yield rows


def assert_published_cells_are_those_of_the_book(notebook, name):
    """Each table has the published numbers of the committed chapter, and numbers beside them."""
    book = nbformat.read(repository() / "book" / "chapters" / f"{name}.ipynb", as_version=4)
    here, there = list(published_and_ours(notebook)), list(published_and_ours(book))
    assert len(here) == len(there)
    for rows, shown in zip(here, there):
        known = [(label[-1], published) for label, published, _ in shown]
        both = [(label[-1], published) in known for label, published, _ in rows]
        assert any(both) or not shown, rows
        assert any(set(ours) != {"NaN"} for _, _, ours in rows)


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_runs_on_the_published_archives(home, name):
    notebook, warned = executed(home, name)
    assert "This page shows the profile **published**." in notebook.cells[0].source
    assert_clean(notebook, home)
    assert_no_family_is_missing(notebook, CHAPTERS[name])
    assert_published_cells_are_those_of_the_book(notebook, name)
    for text in warned:
        assert str(home) not in text and str(repository()) not in text
    if "cnnzoo" in CHAPTERS[name]:  # what is left out of the index is told, once and by its name
        assert (
            sum(f"mnist: 4 of {9 * NETWORKS - 2} rows" in text for text in warned) == 2
        )  # and fashion_mnist


def test_counts_stand_beside_the_published_ones(home):
    zoo = gengap.open_collection("cnnzoo", home / "cache" / "cnnzoo")
    with pytest.warns(UserWarning, match="not finite"):
        index, weights = zoo.last_networks()
    assert dict(index["family"].value_counts()) == dict.fromkeys(DATASETS, NETWORKS - UNUSABLE)
    assert len(weights) == len(index)
    counts = gengap.open_collection("demogen", home / "cache" / "demogen").index()["family"]
    assert dict(counts.value_counts()) == dict(zip(FAMILIES["demogen"], (216, 216, 324)))


@pytest.mark.parametrize(("name", "absent"), ABSENT)
def test_a_collection_that_is_absent_is_left_out_with_one_line(home, name, absent):
    notebook, warned = executed(home, name, absent)
    for collection in absent:
        line = f"The collection `{collection}` is not at hand: left out."
        assert notebook.cells[0].source.count(line) == 1
        assert f"{name}: {collection} is not in the cache and is left out" in warned
    assert_clean(notebook, home)
    assert_no_family_is_missing(notebook, [c for c in CHAPTERS[name] if c not in absent])
