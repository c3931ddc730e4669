"""A dress rehearsal of the profile `published`: every chapter on archives in the published layouts.

A local server serves miniatures of the four collections, the product's own code fetches them, and
chapters run as `gengap run NAME --profile published` does, in a copied checkout. GenProb's weights
are not published: its files are put where the profile looks for them, and chapters that can do
without run once more without. Chapters take minutes; the cheapest are first.
"""

import re
import shutil
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import nbformat
import pytest
from archives.demogen_archive import write_demogen
from archives.genprob_files import CLASSES, OPTIMIZERS, write_genprob
from archives.measured import keep_margins, keep_measures
from archives.pgdl_archive import ARCHIVES, write_pgdl
from archives.zoo_archive import DATASETS, UNUSABLE, write_zoo

import gengap
from gengap.book import chapters
from gengap.book.figures import NAMES
from gengap.collections.fetch import fetch_cnnzoo, fetch_demogen, fetch_pgdl
from gengap.folders import repository

FAMILIES = {
    "cnnzoo": list(DATASETS),
    "demogen": ["NIN_CIFAR10", "RESNET_CIFAR10", "RESNET_CIFAR100"],
    "genprob": [f"{name}_{dataset}" for dataset in CLASSES for name in OPTIMIZERS],
    "pgdl": [task for _, tasks in ARCHIVES.values() for task in tasks],
}
NETWORKS = 40  # of each data set of the zoo
MEASURED = ("task1_v4", "task4", "task6", "task7")  # one network each, in earnest
FEW = {"samples": 5, "permutations": 10, "curve_repeats": 1}  # where a chapter has such a parameter
# Chapter -> collections of which each family is in one of its tables.
CHAPTERS = {
    "08-measures": (),
    "09-collections": ("cnnzoo", "demogen", "genprob", "pgdl"),
    "03-demogen": ("demogen",),
    "02-pgdl": ("pgdl",),
    "04-genprob": ("genprob",),
    "06-your-own-measure": ("pgdl",),
    "07-errata": ("pgdl", "cnnzoo"),
    "05-everywhere": ("cnnzoo", "demogen", "genprob", "pgdl"),
    "01-small-cnn-zoo": ("cnnzoo",),
}
WITHOUT_GENPROB = ("09-collections", "04-genprob", "07-errata", "05-everywhere")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A machine that has fetched the archives and measured them: its cache, data and checkout."""
    home = tmp_path_factory.mktemp("machine")
    with pytest.MonkeyPatch.context() as patch:
        for variable, folder in (("CACHE", "cache"), ("DATA", "data"), ("IMAGES", "images")):
            patch.setenv(f"GENGAP_{variable}", str(home / folder))
        patch.setattr(chapters, "repository", lambda: home / "checkout")
        fetch_all(home)
        shutil.copytree(repository() / "notebooks", home / "checkout" / "notebooks")
        for part in ("published", "replicas/images"):
            shutil.copytree(repository() / "data" / part, home / "data" / part)
        (home / "data" / "tables").mkdir()
        shutil.copy(repository() / "data" / "tables" / "pgdl_costs.csv", home / "data" / "tables")
        measure_all(home)
        yield home


def fetch_all(home):
    (served := home / "served").mkdir()
    write_demogen(served / "demogen_models.tar.gz", home / "images")
    write_pgdl(served, small=True)
    write_zoo(served, NETWORKS)
    write_genprob(home / "cache" / "genprob")
    handler = partial(Quiet, directory=served)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        for fetch in (fetch_cnnzoo, fetch_demogen, fetch_pgdl):
            fetch(address=f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
    shutil.rmtree(served)
    shutil.rmtree(home / "cache" / "archives")


def measure_all(home):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* that is not finite")
        for name in FAMILIES:
            collection = gengap.open_collection(name, home / "cache" / name)
            families = collection.families().set_index("family")
            assert list(families.index[families["models"] > 0]) == [*collection.known_families()]
            assert set(families.index) == set(FAMILIES[name])
            keep_measures(collection, MEASURED)
            if name == "demogen":
                keep_margins(collection)


def executed(name):
    """The executed notebook of a chapter, and what was warned of."""
    source = chapters.repository() / "notebooks" / f"{name}.ipynb"
    known = nbformat.read(source, as_version=4).cells[1:4]
    few = {key: n for key, n in FEW.items() if any(f"\n{key} = " in cell.source for cell in known)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        [path] = chapters.run_chapters([name], profile="published", parameters=few, jobs=1)
    return nbformat.read(path, as_version=4), [str(warning.message) for warning in caught]


def tables_of(notebook):
    """The tables that a chapter shows."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [o.data["text/html"] for o in outputs if "text/html" in o.get("data", {})]


def assert_clean(notebook, home):
    """Nothing of the replica, of this machine or of warnings is said."""
    for cell in notebook.cells:
        said = [cell.source] if cell.cell_type == "markdown" else []
        for output in cell.get("outputs", ()):
            assert output.output_type not in ("error", "stream"), output
            said += [text for kind, text in output.data.items() if kind.startswith("text/")]
        for text in said:
            for unwanted in ("replica", "Warning", "~/", str(home), str(repository())):
                assert unwanted.lower() not in text.lower(), text


def assert_no_family_is_missing(notebook, collections):
    shown = "\n".join(tables_of(notebook)) + "\n".join(
        output.data.get("text/plain", "")
        for cell in notebook.cells
        for output in cell.get("outputs", ())
    )
    for family in [family for name in collections for family in FAMILIES[name]]:
        names = [family, NAMES.get(family, family)]
        assert any(re.search(rf"\b{re.escape(name)}\b", shown) for name in names), family


def published_and_ours(notebook):
    """What stands in each row of the tables with columns, or groups of columns, of these names."""
    for html in tables_of(notebook):
        if {"published", "ours"} <= set(re.findall(r"<th[^>]*>\s*(\w+)\s*</th>", html)):
            for row in re.findall("<tr.*?</tr>", html.split("<tbody>")[1], re.DOTALL):
                cells = re.findall("<td>(.*?)</td>", row)
                yield cells[: len(cells) // 2], cells[len(cells) // 2 :]


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_runs_on_the_published_archives(home, name):
    notebook, warned = executed(name)
    assert "This page shows the profile **published**." in notebook.cells[0].source
    assert_clean(notebook, home)
    assert_no_family_is_missing(notebook, CHAPTERS[name])
    for _, ours in published_and_ours(notebook):
        assert set(ours) != {"NaN"}
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


@pytest.mark.parametrize("name", WITHOUT_GENPROB)
def test_a_chapter_runs_without_genprob_and_says_so_in_one_line(home, name):
    (home / "cache" / "genprob").rename(home / "elsewhere")
    try:
        notebook, warned = executed(name)
    finally:
        (home / "elsewhere").rename(home / "cache" / "genprob")
    assert "The collection `genprob` is not at hand: left out." in notebook.cells[0].source
    assert f"{name}: genprob is not in the cache and is left out" in warned
    assert_clean(notebook, home)
    others = [collection for collection in CHAPTERS[name] if collection != "genprob"]
    assert_no_family_is_missing(notebook, others)
