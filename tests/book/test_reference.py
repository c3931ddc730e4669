"""Pages of reference: what they show of docstrings and indexes, and that they show all."""

import re
from html import unescape

import nbformat
import pytest
from pandas import DataFrame, Series

import gengap
from gengap.book import reference
from gengap.collection import COLLECTIONS
from gengap.evaluation.judgement import CRITERIA
from gengap.folders import repository
from gengap.measures import MEASURES

CHAPTERS = repository() / "book" / "chapters"
PAGES = ("08-measures", "09-collections")


def shown(html):
    """The text that a reader sees."""
    return " ".join(unescape(re.sub("<[^>]*>", " ", html)).split())


def written(docstring):
    """The text of a docstring without its marks of code and lists."""
    return " ".join(re.sub(r"(?m)^\s*- |`|(?<=\s)\*(?=\w)|(?<=\w)\*(?=\s)", " ", docstring).split())


def squeezed(text):
    return re.sub(r"\s", "", text)


def bold_norm(model, *, quantile: float = 0.1):
    """Sum, *not* mean, of x_i * y_i * a*b*c < 1 & of `parameter_norm`, ||W||_2^2.

    Returns
    - one: a_b_c
      over two lines;
    - two.

    Source: Somebody et al. 2020, `bold_norm`. Differs, besides what `path_norm` says: not at
    all. Unit: none.
    Raises: NotAvailable if <nothing> is there.
    """


def test_a_docstring_is_shown_with_its_structure_and_nothing_is_taken_for_markup():
    assert reference.entries([bold_norm]) == (
        "<dl><dt><code>bold_norm</code> with quantile = 0.1</dt><dd>"
        "<p>Sum, <em>not</em> mean, of x_i * y_i * a*b*c &lt; 1 &amp; of "
        '<a href="#measure-parameter_norm"><code>parameter_norm</code></a>, ||W||_2^2.</p>'
        "<p>Returns</p><ul><li>one: a_b_c over two lines;</li><li>two.</li></ul>"
        "<p><strong>Source:</strong> Somebody et al. 2020, <code>bold_norm</code>.</p>"
        '<p><strong>Differs, besides what <a href="#measure-path_norm"><code>path_norm</code></a>'
        " says:</strong> not at all. Unit: none.</p>"
        "<p><strong>Raises:</strong> NotAvailable if &lt;nothing&gt; is there.</p></dd></dl>"
    )


@pytest.mark.parametrize("module", reference.homes())
def test_of_every_measure_every_word_is_shown(module):
    page = reference.measures_in(module)
    for name in reference.homes()[module]:
        assert page.count(f'<dt id="measure-{name}">') == 1
        assert squeezed(written(MEASURES[name].__doc__)) in squeezed(shown(page))


@pytest.mark.parametrize("name", CRITERIA)
def test_of_every_score_every_word_is_shown(name):
    score = CRITERIA[name].score
    assert squeezed(written(score.__doc__)) in squeezed(shown(reference.entries([score])))


@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_data_sheet_has_what_the_collection_and_its_module_say(name):
    sheet = shown(reference.data_sheet(name))
    assert "Format" in sheet or name == "folder"
    assert len(sheet) > 500


def test_the_functions_that_definitions_refer_to_are_shown_behind_them():
    page = reference.measures_in("flatness")
    assert page.index("<code>fisher_rao</code></dt>") < page.index(
        "<dt><code>pac_bayes_sigma</code>"
    )
    elsewhere = reference.measures_in("convolution_spectra")
    assert "<dt><code>low_rank_values</code>" in elsewhere, "defined in another module"
    assert "These texts refer to" not in reference.measures_in("capacity")


def test_a_measure_s_own_name_in_its_text_is_no_link():
    page = reference.measures_in("sharpness")
    assert "baseline <code>sharpness</code> of its kit" in page


def test_every_registered_measure_has_a_home():
    homes = reference.homes()
    assert sorted(name for names in homes.values() for name in names) == sorted(MEASURES)


def test_what_a_measure_needs_is_tried(tiny):
    model = tiny.load("left/0")
    needs = {name: reference.needs(MEASURES[name], model) for name in MEASURES}
    assert needs["parameter_norm"] == needs["vc_dimension"] == "weights"
    assert needs["distance_from_initialization"] == "initial weights"
    assert needs["training_loss"] == needs["path_norm"] == "training images"
    # The tiny networks have no convolution: that is not available, whatever else is given.
    assert needs["stable_quality"] == "weights"


def test_the_overview_has_the_largest_cost_of_every_measure(tiny):
    costs = DataFrame({"measure": ["margin", "margin", "vpm"], "seconds": [1.0, 3.0, 2.0]})
    table = reference.overview(tiny.load("left/0"), costs)
    assert list(table.columns) == ["group", "needs", "seconds"]
    assert set(table.index) == set(MEASURES)
    assert table["seconds"].dropna().to_dict() == {"margin": 3.0, "vpm": 2.0}
    assert table.loc["mixup_margin", "group"] == "augmented margins"


def test_a_table_links_each_measure_to_its_entry():
    table = DataFrame({"seconds": [0.5]}, index=["path_norm"])
    html = reference.linked(table)
    assert '<th><a href="#measure-path_norm"><code>path_norm</code></a></th>' in html
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


def texts(chapter):
    """Of an executed chapter the cells that show texts of the code: source, shown, shown now."""
    cells = nbformat.read(CHAPTERS / f"{chapter}.ipynb", as_version=4).cells
    names = {}
    for cell in cells:
        tags = cell.metadata.get("tags", [])
        if "hide-input" in tags or "parameters" in tags:
            exec(cell.source, names)
        if "remove-input" in tags:
            yield cell.source, cell.outputs[0].data["text/html"], eval(cell.source, names).data


@pytest.mark.parametrize("chapter", PAGES)
def test_what_a_page_shows_is_what_the_docstrings_say_now(chapter):
    for source, shown_then, shown_now in texts(chapter):
        assert shown_then == shown_now, f"{source}: run `gengap run {chapter}` again"


def test_the_pages_leave_nothing_out():
    measures, collections = ("\n".join(s for s, *_ in texts(c)) for c in PAGES)
    modules = re.findall(r'measures_in\("(\w+)"\)', measures)
    assert sorted(modules) == sorted(reference.homes()), "a cell for each module of measures"
    assert sorted(re.findall(r'data_sheet\("(\w+)"\)', collections)) == sorted(COLLECTIONS)
    assert "CRITERIA.values()" in measures and "SCORES.values()" in measures


def test_the_page_of_collections_includes_the_account_of_every_replica():
    text = (repository() / "notebooks" / "09-collections.ipynb").read_text()
    for name in COLLECTIONS:
        if (gengap.collection.default_root(name) / "README.md").is_file():
            assert f"replicas/{name}/README.md" in text
