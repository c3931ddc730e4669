"""An extension of Sphinx: names between backticks in docstrings are links where there is a target.

Sphinx's autodoc and napoleon make pages of docstrings. This adds that a measure's docstring may
name another function without saying where it is, and that modules of measures show measures alone.
Figures of chapters get what notebooks keep as their plain text as alternative texts.
"""

import re
from typing import Any

from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

from gengap.measures import MEASURES


class Name(PyXRefRole):
    """What stands between backticks, all of it: `<task>` at its end is no target, as in Sphinx."""

    explicit_title_re = re.compile("(?!)")


def target_of(app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: Any) -> Any:
    """A link to what has this name at its end; without one, what backticks hold stays code."""
    if node.get("refdomain") != "py":
        return None
    python: Any = env.get_domain("py")
    found = python.find_obj(env, None, None, node["reftarget"], None, 1)
    for name, target in found[:1]:
        place = target.docname, target.node_id
        return make_refnode(app.builder, node["refdoc"], *place, shown, name)
    return shown if node["reftype"] == "obj" else None


def is_left_out(
    app: Sphinx, what: str, name: str, thing: Any, skipped: bool, options: dict
) -> bool | None:
    """Whether a member of a module is not shown: of modules of measures, what is no measure."""
    if what == "module" and getattr(thing, "__module__", "").startswith("gengap.measures."):
        return skipped or MEASURES.get(name) is not thing
    return None


def name_images(app: Sphinx, document: Any) -> None:
    """Each image that a cell shows is told by the plain text of the same output."""
    for output in document.findall(lambda node: node.tagname == "container"):
        parts = {part.get("mime_type"): part for part in output if part.tagname == "container"}
        if "text/plain" in parts:
            for image in output.findall(lambda node: node.tagname == "image"):
                image["alt"] = parts["text/plain"].astext()


def load_mathjax_where_math_is(
    app: Sphinx, page: str, _: str, context: dict, document: Any
) -> None:
    """Sphinx loads it on the front page for the sake of the pages below, at twice the weight."""
    if document is None or not document.next_node(lambda node: node.tagname.startswith("math")):
        files = context["script_files"]
        context["script_files"] = [file for file in files if "mathjax" not in str(file.filename)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_role_to_domain("py", "obj", Name(), override=True)
    app.connect("doctree-read", name_images)
    app.connect("html-page-context", load_mathjax_where_math_is, priority=900)  # after Sphinx's own
    app.connect("missing-reference", target_of)
    app.connect("autodoc-skip-member", is_left_out)
    return {"parallel_read_safe": True}
