"""Mentions of the glossary's terms on pages, and the pages' descriptions."""

import re
from types import SimpleNamespace

import pytest
from docutils import nodes
from docutils.utils import new_document

from gengap.book import terms
from gengap.folders import repository

TEXT = (repository() / f"{terms.GLOSSARY}.md").read_text()
ENTRIES = re.findall(r"^(\S.*)\n((?:  .*\n)+)", TEXT.partition("```{glossary}\n")[2], re.M)


def test_every_term_is_defined_once_in_full_sentences():
    names = [name.lower() for name, _ in ENTRIES]
    assert len(names) == len({*names}) > 25
    for _, told in ENTRIES:
        assert all(re.fullmatch(r"  [A-Z].*[.]", line) for line in told.splitlines())


def definition(name, *sentences):
    body = nodes.definition("", nodes.paragraph("", " ".join(sentences)))
    term = nodes.term("", name, ids=[f"term-{name.replace(' ', '-')}"])
    return nodes.definition_list_item("", term, body)


@pytest.fixture
def app():
    """What Sphinx hands over, with a glossary of three terms."""
    glossary = new_document("glossary")
    glossary += nodes.definition_list(
        "",
        definition("family", "Networks that are compared.", "Such as a task."),
        definition("margin", "A difference of logits."),
        definition("hidden margin", "A distance."),
        definition("Kendall's tau", "A rank correlation."),
    )
    found = {terms.GLOSSARY: glossary}
    env = SimpleNamespace(found_docs=found, get_doctree=found.get)
    builder = SimpleNamespace(get_relative_uri=lambda page, other: f"{other}.html")
    return SimpleNamespace(env=env, builder=builder)


def linked(app, *parts, page="page"):
    """Shown text, target and hover of each link in a page of these parts."""
    document = new_document("page")
    document += parts
    before = document.astext()
    terms.link_terms(app, document, page)
    assert document.astext() == before
    return [
        (link.astext(), link["refuri"].rpartition("#")[2], link["reftitle"])
        for link in document.findall(nodes.reference)
        if link.get("reftitle")
    ]


def test_the_first_mention_of_each_term_is_a_link_that_tells_its_first_sentence(app):
    first = nodes.paragraph("", "Of all families, this family has large hidden\nmargins.")
    second = nodes.paragraph("", "Margin and Kendall\N{RIGHT SINGLE QUOTATION MARK}s tau.")
    assert linked(app, first, second) == [
        ("families", "term-family", "Networks that are compared."),
        ("hidden\nmargins", "term-hidden-margin", "A distance."),
        ("Margin", "term-margin", "A difference of logits."),
        (
            "Kendall\N{RIGHT SINGLE QUOTATION MARK}s tau",
            "term-Kendall's-tau",
            "A rank correlation.",
        ),
    ]


def test_code_headings_links_tables_and_parts_of_words_stay_as_they_are(app):
    inside = nodes.paragraph("", "", nodes.literal("", "margin"), nodes.Text(" a sub-margin"))
    inside += nodes.reference("", "family", refuri="a.html")
    entry = nodes.entry("", nodes.paragraph("", "margin"))
    caption = nodes.paragraph("", "margin", classes=["caption"])
    assert not linked(app, nodes.title("", "margin"), inside, entry, caption)
    assert not linked(app, nodes.paragraph("", "margin"), page=terms.GLOSSARY)


def test_a_page_is_described_by_its_first_sentences():
    document, context = new_document("page"), {"metatags": "", "last_updated": "2026-05-04"}
    app = SimpleNamespace(config=SimpleNamespace(release="1.2"))
    document += nodes.paragraph("", 'Say "how".\n' + 40 * "Why not? ")
    terms.describe(app, "page", "", context, document)
    assert context["last_updated"] == "2026-05-04, version 1.2"
    [text] = re.findall(r'<meta name="description" content="([^"]*)" />', context["metatags"])
    assert text.startswith("Say &quot;how&quot;. Why") and len(text) < terms.LONGEST + 12
    terms.describe(app, "page", "", context, document)
    assert context["metatags"].count("description") == 1
