"""The front page's sentences and what chapters glue for them."""

import re

import pytest

from gengap.book import every_score
from gengap.book import front_page as front
from gengap.book.chapters import chapter_names
from gengap.errors import GengapError
from gengap.folders import repository

SENTENCES = (repository() / "book" / "findings.md").read_text()


def test_every_number_of_the_findings_is_glued_by_a_chapter():
    told = front.findings()
    assert not front.PLACE.search(told)
    # No number stands in a sentence by itself.
    words = re.sub(r"\{doc\}`[^`]*`|\$[^$]*\$", "", front.PLACE.sub("", SENTENCES))
    assert not re.search(r"\d", words)


@pytest.mark.parametrize("name", chapter_names())
def test_what_a_chapter_glues_is_on_a_page(name):
    places = [*front.PLACE.findall(SENTENCES), (every_score.CHAPTER, every_score.KEY)]
    asked = {key for chapter, key in places if chapter == name}
    assert set(front.glued(name)) == asked


def test_what_nobody_glued_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "findings.md").write_text("R2 is {01-zoo:r2}.")
    monkeypatch.setattr(front, "repository", lambda: tmp_path)
    with pytest.raises(GengapError, match="asks for 'r2' of chapter 01-zoo, which glues nothing"):
        front.findings()
