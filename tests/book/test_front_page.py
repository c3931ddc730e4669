"""The front page's sentences and what chapters glue for them."""

import re

import nbformat
import pytest

from gengap.book import every_score
from gengap.book import front_page as front
from gengap.book.chapters import chapter_names
from gengap.errors import GengapError
from gengap.folders import repository

GLUED = re.compile(r"\{glue:text\}`(\w+)`")
STUDIES = [name for name in chapter_names() if name < "06"]
FILES = ("findings.md", "verdicts.md")
SENTENCES = "\n".join((repository() / "book" / name).read_text() for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_number_of_the_findings_is_glued_by_a_chapter(name):
    told = front.findings(name)
    assert not front.PLACE.search(told)
    assert len(told.strip().splitlines()) == 5
    # No number stands in a sentence by itself.
    text = (repository() / "book" / name).read_text()
    words = re.sub(r"\{doc\}`[^`]*`|\$[^$]*\$", "", front.PLACE.sub("", text))
    assert not re.search(r"\d", words)


def answer_of(name):
    """The box at the head of a chapter's source; empty if it has none."""
    notebook = nbformat.read(repository() / "notebooks" / f"{name}.ipynb", as_version=4)
    boxes = [cell.source for cell in notebook.cells if ":class: answer" in cell.source]
    assert len(boxes) <= 1
    return "".join(boxes)


@pytest.mark.parametrize("name", chapter_names())
def test_what_a_chapter_glues_is_on_the_front_page_or_in_its_answer(name):
    places = [*front.PLACE.findall(SENTENCES), (every_score.CHAPTER, every_score.KEY)]
    asked = {key for chapter, key in places if chapter == name}
    assert set(front.glued(name)) == asked | set(GLUED.findall(answer_of(name)))


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_begins_with_its_question_claim_finding_and_verdict(name):
    parts = re.split(r"\*\*(\w+)\.\*\*", answer_of(name))
    assert parts[1::2] == ["Question", "Claim", "Here", "Verdict"]
    _, _, here, verdict = parts[2::2]
    assert GLUED.search(here) and "`verdicts`" in verdict
    words = re.sub(r"\$[^$]*\$|95 %|PGDL.Task|20\d\d", "", GLUED.sub("", here + verdict))
    assert not re.search(r"\d", words)  # no number stands there by itself


def test_what_nobody_glued_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "findings.md").write_text("R2 is {01-zoo:r2}.")
    monkeypatch.setattr(front, "repository", lambda: tmp_path)
    with pytest.raises(GengapError, match="asks for 'r2' of chapter 01-zoo, which glues nothing"):
        front.findings()
