"""An extension of Sphinx: the first mention of a term on each page links to the glossary.

Only in paragraphs, never in code, headings or other links; a hover shows the definition's first
sentence. Each page is described to search engines by its first sentences, and tells its version.
"""

import importlib.metadata
import re
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

GLOSSARY = "book/glossary"
# Not changed inside these.
CLOSED = (nodes.reference, nodes.literal, nodes.math, nodes.title, nodes.raw, nodes.caption)
SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z])")
LONGEST = 160  # characters of a page's description


def definitions(glossary: nodes.document) -> dict[str, tuple[str, str]]:
    """Term -> the place of its definition in the glossary's page, and its first sentence."""
    found = {}
    for item in glossary.findall(nodes.definition_list_item):
        text = item.next_node(nodes.paragraph).astext()
        for term in item.findall(nodes.term):
            found[term.astext()] = term["ids"][0], SENTENCE.split(" ".join(text.split()))[0]
    return found


def link_terms(app: Sphinx, document: nodes.document, page: str) -> None:
    """Link first mentions; `baselines` and `Baseline` mention `baseline`."""
    if page == GLOSSARY or GLOSSARY not in app.env.found_docs:
        return
    known = definitions(app.env.get_doctree(GLOSSARY))
    by_name = {term.lower(): term for term in known}
    longest_first = sorted(by_name, key=len, reverse=True)
    for paragraph in [*document.findall(nodes.paragraph)]:
        for text in [*paragraph.findall(nodes.Text)]:
            if not by_name or _is_closed(text, paragraph):
                continue
            parts, rest = [], text.astext()
            while mention := _pattern(longest_first, by_name).search(rest):
                term = by_name.pop(_singular(mention[0], by_name))
                anchor, sentence = known[term]
                shown = nodes.inline("", mention[0], classes=["term"])
                link = make_refnode(app.builder, page, GLOSSARY, anchor, shown, sentence)
                parts += [nodes.Text(rest[: mention.start()]), link]
                rest = rest[mention.end() :]
            if parts:
                text.parent.replace(text, [*parts, nodes.Text(rest)])


def describe(app: Sphinx, page: str, _: str, context: dict[str, Any], document: Any) -> None:
    """The first sentences of a page, as many as are shown in a list of results."""
    paragraph = document and document.next_node(nodes.paragraph)
    if paragraph and 'name="description"' not in context["metatags"]:
        text = " ".join(paragraph.astext().split())
        if len(text) > LONGEST:
            text = text[: LONGEST - 1].rpartition(" ")[0] + "\N{HORIZONTAL ELLIPSIS}"
        context["metatags"] += f'<meta name="description" content="{escape(text)}" />\n'
    context["last_updated"] = f"{context.get('last_updated')}, version {app.config.release}"


def name_version(app: Sphinx, config: Any) -> None:
    """For every page's foot, and where pages say `{sub-ref}` release."""
    config.release = importlib.metadata.version("gengap")


def _pattern(longest_first: list[str], by_name: dict[str, str]) -> re.Pattern[str]:
    open_ones = "|".join(_forms(name) for name in longest_first if name in by_name)
    return re.compile(rf"(?<![\w-])(?:{open_ones or '(?!)'})(?![\w-])", re.IGNORECASE)


def _forms(name: str) -> str:
    """A pattern of a term and its plural, with any kind of space, hyphen or apostrophe."""
    plural = re.escape(name[:-1]) + "(?:y|ies)" if name[-1] == "y" else re.escape(name) + "s?"
    return re.sub(r"\\ |\\-", r"[\\s-]", plural).replace("'", "['\N{RIGHT SINGLE QUOTATION MARK}]")


def _singular(mention: str, by_name: dict[str, str]) -> str:
    return next(name for name in by_name if re.fullmatch(_forms(name), mention, re.IGNORECASE))


def _is_closed(text: nodes.Node, paragraph: nodes.paragraph) -> bool:
    within = text.parent
    while within is not paragraph:
        if within is None or isinstance(within, CLOSED):  # None: of a node that others inserted
            return True
        within = within.parent
    is_entry = isinstance(paragraph.parent, nodes.entry | nodes.citation)
    return is_entry or "caption" in paragraph["classes"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-resolved", link_terms, priority=600)  # after captions are what they are
    app.connect("config-inited", name_version)
    app.connect("html-page-context", describe)
    return {"parallel_read_safe": True}
