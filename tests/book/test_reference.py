"""Pages of reference: what they show of docstrings and indexes, and that they show all."""

import inspect
import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from docutils import nodes
from docutils.nodes import reference as link
from docutils.utils import new_document
from pandas import DataFrame, Series
from sphinx.addnodes import desc, desc_signature
from sphinx.application import Sphinx

import gengap
from gengap.book import docstrings, reference
from gengap.collection import COLLECTIONS
from gengap.evaluation.scores import CRITERIA, pearson, sign_errors
from gengap.folders import repository
from gengap.measures import MEASURES, work_of

PAGES = ["notebooks/08-measures.ipynb", "notebooks/09-collections.ipynb", "book/api.md"]
PAGES += [f"book/measures-{group}.md" for group in ("norms", "spectra", "margins", "flatness")]
SETTINGS = re.compile("add_module_names|autodoc_|default_role|napoleon_|nitpick_")
EXTENSIONS = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "gengap.book.docstrings"]


def directives(page):
    """What a page tells Sphinx to make of docstrings."""
    text = (repository() / page).read_text()
    if page.endswith(".ipynb"):
        text = "".join(line for cell in json.loads(text)["cells"] for line in cell["source"])
    return re.findall(r"```\{eval-rst\}\n(.*?)\n```", text, re.S)


class Book:
    """The texts of the pages of reference, as Sphinx makes them with the book's own settings."""

    def __init__(self, folder):
        for page in PAGES:
            text = "\n\n".join(["A page\n======", *directives(page)])
            (folder / f"{Path(page).stem}.rst").write_text(text)
        settings = yaml.safe_load((repository() / "_config.yml").read_text())["sphinx"]["config"]
        used = {key: value for key, value in settings.items() if SETTINGS.match(key)}
        used |= {"extensions": EXTENSIONS, "nitpicky": True, "root_doc": "api"}
        self.warnings, built = io.StringIO(), folder / "built"
        app = Sphinx(folder, None, built, built, "dummy", used, status=None, warning=self.warnings)
        app.build()
        pages = [app.env.get_and_resolve_doctree(n, app.builder) for n in app.env.found_docs]
        self.whole = "\n".join(page.astext() for page in pages)
        self.entries = {
            identifier: entry
            for page in pages
            for entry in page.findall(desc)
            for identifier in entry.next_node(desc_signature)["ids"]
        }


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return Book(tmp_path_factory.mktemp("reference"))


def path_of(function):
    return f"{function.__module__}.{function.__name__}"


def characters(text):
    """What of a text is neither space nor punctuation."""
    return re.sub(r"\W", "", text)


def written(docstring):
    """A docstring without the names of Sphinx's roles and directives."""
    return re.sub(r":math:|\.\. math::", " ", docstring)


def test_docstrings_are_understood_without_a_warning(book):
    assert re.sub(r".*toctree.*\n", "", book.warnings.getvalue()) == ""


@pytest.mark.parametrize("name", MEASURES)
def test_of_every_measure_every_word_is_shown(book, name):
    entry = book.entries[path_of(MEASURES[name])].astext()
    assert characters(written(MEASURES[name].__doc__)) in characters(entry)


def test_no_source_of_a_measure_is_taken_for_a_type(book):
    for name in MEASURES:
        shown = book.entries[path_of(MEASURES[name])].astext()
        fields = re.findall(r"^(?:Source|Differs)\n\n(.*)", shown, re.M)
        assert fields and not any(" – " in field for field in fields), name


JUDGED = [criterion.score for criterion in CRITERIA.values()]


@pytest.mark.parametrize("score", [*JUDGED, sign_errors, pearson], ids=path_of)
def test_of_every_score_every_word_is_shown(book, score):
    entry = book.entries[path_of(score)].astext()
    assert characters(written(score.__doc__)) in characters(entry)


@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_data_sheet_has_what_the_collection_and_its_module_say(book, name):
    module, _, cls = COLLECTIONS[name].partition(":")
    sheet = book.entries[f"{module}.{cls}"].astext()
    assert characters(inspect.getdoc(getattr(sys.modules[module], cls))) in characters(sheet)
    assert characters(inspect.getdoc(sys.modules[module])) in characters(book.whole)


def test_the_page_of_the_package_has_all_that_it_offers(book):
    assert {f"gengap.{name}" for name in gengap.__all__} <= set(book.entries)


def test_every_function_that_a_definition_refers_to_is_defined(book):
    functions = {
        name: path_of(function)
        for path, module in list(sys.modules.items())
        if path.startswith("gengap.measures.")
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == path
    }
    ends = {identifier.rpartition(".")[2] for identifier in book.entries}
    for measure in MEASURES.values():
        for text in (measure.__doc__, sys.modules[measure.__module__].__doc__):
            for name in re.findall(r"(?<!:)`(\w+)`", text):
                assert name not in functions or name in ends, name


def test_a_name_between_backticks_is_a_link_to_its_definition(book):
    entry = book.entries["gengap.measures.transport.k_variance_margin_eighth"]
    targets = [node.get("refid") or node.get("refuri") for node in entry.findall(link)]
    assert any("gengap.measures.transport.k_variance_margin_first" in to for to in targets)


def test_an_image_of_a_cell_is_told_by_the_plain_text_of_its_output():
    image, other = nodes.image(uri="a.png"), nodes.image(uri="b.png", alt="another")
    plain = nodes.container("", nodes.literal_block("", "Figure. Across: gap."))
    plain["mime_type"] = "text/plain"
    bundle = nodes.container("", nodes.container("", image, mime_type="image/png"), plain)
    document = new_document("chapter")
    document += [bundle, nodes.paragraph("", "An image ", other)]
    docstrings.name_images(None, document)
    assert image["alt"] == "Figure. Across: gap."
    assert other["alt"] == "another"


def test_a_page_without_math_does_not_load_mathjax():
    document = new_document("page")
    names = ["mathjax/tex.js", None, "tables.js"]
    for formulas, kept in (([], names[1:]), ([nodes.math(text="x")], names)):
        document += [nodes.paragraph("", "", *formulas)]
        context = {"script_files": [SimpleNamespace(filename=name) for name in names]}
        docstrings.load_mathjax_where_math_is(None, "page", "page.html", context, document)
        assert [file.filename for file in context["script_files"]] == kept


def test_what_a_measure_needs_is_tried(tiny):
    model = tiny.load("left/0")
    needs = {name: reference.needs(MEASURES[name], model) for name in MEASURES}
    assert needs["raw_parameter_norm"] == needs["vc_dimension"] == "weights"
    assert needs["distance_from_initialization"] == "initial weights"
    assert needs["inverse_margin"] == needs["path_norm"] == "training images"
    assert needs["hessian_trace"] == needs["tangent_kernel_alignment"] == "training images"
    assert needs["sum_of_training_losses"] == "losses of earlier epochs"
    # The tiny networks have no convolution: that is not available, whatever else is given.
    assert needs["stable_quality"] == "weights"


def test_the_overview_has_the_largest_cost_of_every_measure(tiny):
    costs = DataFrame({"measure": ["margin", "margin", "vpm"], "seconds": [1.0, 3.0, 2.0]})
    errors = DataFrame({"rank_correlation": [0.9]}, index=["vpm"])
    table = reference.overview(tiny.load("left/0"), costs, errors)
    assert table["draws agree"].dropna().to_dict() == {"vpm": 0.9}
    declared = ["images at most", "derivatives", "draws agree"]
    assert list(table.columns) == ["group", "needs", *declared, "seconds"]
    assert list(table.loc["fisher_rao", ["images at most", "derivatives"]]) == ["1,000", "yes"]
    assert list(table.loc["vc_dimension", ["images at most", "derivatives"]]) == ["", ""]
    assert set(table.index) == set(MEASURES)
    assert table["seconds"].dropna().to_dict() == {"margin": 3.0, "vpm": 2.0}
    assert table.loc["mixup_margin", "group"] == "augmented margins"


def test_the_error_of_sampling_is_known_of_every_measure_that_draws_images():
    errors = reference.sampling_errors()
    drawn = {name for name in MEASURES if str(work_of(name)) not in ("", "all", "1")}
    assert set(errors.index) == drawn
    assert errors["rank_correlation"].between(-1, 1).all() and (errors["spread"] >= 0).all()
    assert (errors["networks"] >= 10).all() and (errors["draws"] >= 2).all()


def test_a_table_links_each_measure_to_its_entry():
    table = DataFrame({"seconds": [0.5]}, index=["path_norm"])
    html = reference.linked(table)
    target = "../measures-norms.html#gengap.measures.norms.path_norm"
    assert f'<th><a href="{target}"><code>path_norm</code></a></th>' in html
    assert "<td>0.5</td>" in html


def test_a_family_is_described_at_its_last_epoch(tiny):
    index = tiny.index()
    tiny.__dict__["_index"] = index.assign(epoch=[0, 1, 1, 1, 2, 2, 2, 2])
    table = reference.family_table(tiny)
    assert table["networks"].to_dict() == {"left": 3, "right": 4}
    assert table["epochs"].to_dict() == {"left": "0, 1", "right": "2"}
    accuracies = index["train_accuracy"][1:4]
    ends = f"{accuracies.min():.3f} to {accuracies.max():.3f}"
    assert table.loc["left", "train accuracy"] == ends
    gaps = accuracies / 2  # the tiny collection records half the accuracy as the test's
    assert table.loc["left", "gap"] == f"{gaps.min():.3f} to {gaps.max():.3f}"
    assert set(table["reliability"]) == {"not known"}  # nor are the numbers of images


def test_hyperparameters_are_shown_by_family(tiny):
    table = reference.hyperparameter_table(tiny)
    assert table.to_dict() == {"left": {"seed": "0, 1, 2, 3"}, "right": {"seed": "4, 5, 6, 7"}}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([32.0, 8.0, None, 8.0, 1024.0], "8, 32, 1024"),
        (["sgd", "adam", "sgd"], "sgd, adam"),
        ([True, False], "False, True"),
        ([None, None], "not given"),
        ([float("nan")] * 2, "not given"),
        ([k / 1000 for k in range(10)], "0 to 0.009 (10 values)"),
    ],
)
def test_values_in_words(values, words):
    assert reference.values_in_words(Series(values)) == words


def test_the_page_of_collections_includes_the_account_of_every_replica():
    text = (repository() / "notebooks" / "09-collections.ipynb").read_text()
    for name in COLLECTIONS:
        if (gengap.collection.default_root(name) / "README.md").is_file():
            assert f"replicas/{name}/README.md" in text
