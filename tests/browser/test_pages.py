"""Every page of the rendered book, as a browser shows it from a file and without a network.

Each page is opened once and then looked at in several widths, in light and dark, and on paper.
What is looked for is in look.js.
"""

import gzip
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe

from gengap.book.figures import NAMES
from gengap.folders import repository

TOC = yaml.safe_load((repository() / "_toc.yml").read_text())
CHAPTERS = re.findall("file: (.*)", (repository() / "_toc.yml").read_text())
PAGES = [TOC["root"], *CHAPTERS, "search", "genindex"]
WIDTHS = (1280, 768, 390)  # a laptop, a tablet, a phone
TALLEST = 12_000  # pixels of a page on a laptop, with what is folded folded
PAPER = 718  # CSS pixels between the margins of A4
OF_COLOUR = ["color-contrast", "link-in-text-block"]  # what axe asks of it by default
FAULTS = {"resultTypes": ["violations"]}  # to describe all that is right takes longer than to look
LOOK = Path(__file__).with_name("look.js")
STILL = "* { transition: none !important; animation: none !important; }"
STILL += "html { scroll-behavior: auto !important; }"
SET = "window.MathJax?.startup ? MathJax.startup.promise.then(() => true) : true"


class Opened:
    """A page in a browser, what it asked for and what it complained of."""

    def __init__(self, window, file: Path):
        self.file, self.asked, self.complaints = file, [], []
        self.tab = window.new_page()
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.on("requestfailed", lambda request: self.complaints.append(request.url))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("console", self._console)
        self.tab.goto(file.as_uri())
        self.tab.wait_for_function(SET)
        self.tab.add_style_tag(content=STILL)
        self.tab.add_script_tag(path=LOOK)

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def seen(self, look: str, *, width: int = WIDTHS[0], theme: str = "light", paper: bool = False):
        """What a function of look.js, or any expression, gives under these conditions."""
        self.tab.emulate_media(media="print" if paper else "screen")
        self.tab.set_viewport_size({"width": width, "height": 900})
        self.tab.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        return self.tab.evaluate(look)


@pytest.fixture(scope="module", params=PAGES)
def page(request, window, built):
    file = built / f"{request.param}.html"
    assert file.exists(), "build the book again: `make book`"
    opened = Opened(window, file)
    yield opened
    opened.tab.close()


def test_a_page_loads_without_complaint_and_asks_for_nothing_outside(page):
    assert page.complaints == []
    assert [url for url in page.asked if urlsplit(url).scheme not in ("file", "data")] == []


def test_a_page_is_no_longer_than_a_reader_scrolls(page):
    assert page.seen("document.documentElement.scrollHeight") <= TALLEST


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_never_scrolls_sideways(page, width):
    assert page.seen("document.documentElement.scrollWidth", width=width) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_every_column_can_be_seen_and_rows_keep_their_labels(page, width):
    assert page.seen("hiddenColumns(false)", width=width) == []


def test_columns_are_named_in_words(page):
    heads = "[...document.querySelectorAll('table.dataframe thead')].map((head) => head.innerText)"
    assert [text for text in page.seen(heads) if "_" in text] == []


def test_rows_are_named_in_words_and_families_as_in_figures(page):
    cells = (
        "[...document.querySelectorAll('.cell:not(.tag_as-in-files) > .cell_output td,"
        " .cell:not(.tag_as-in-files) > .cell_output tbody th')].filter((cell) =>"
        " cell.closest('.dataframe') && !cell.querySelector('a, code')).map((c) => c.innerText)"
    )
    variable = re.compile("hp_.*|[a-z0-9]+(_[a-z0-9]+)+")
    assert [text for text in page.seen(cells) if text in NAMES or variable.fullmatch(text)] == []


def test_verdicts_are_all_in_sight_with_a_link_to_what_they_rest_on(page):
    boxes = (
        "[...document.querySelectorAll('.output.text_html')].filter((box) =>"
        " /verdict/.test(box.querySelector('thead')?.textContent)"
        " && !box.closest('details')).map((box) => [box.scrollHeight <= box.clientHeight + 1,"
        " box.querySelectorAll('tbody tr').length, box.querySelectorAll('tbody a').length,"
        " /shown in/.test(box.querySelector('thead').textContent)])"
    )
    for whole, rows, links, elsewhere in page.seen(boxes):
        assert whole and links == rows * elsewhere


def test_on_a_phone_a_claim_and_its_verdict_are_seen_together(page):
    rows = (
        "[...document.querySelectorAll('.verdicts tbody tr')].filter((row) =>"
        " !row.closest('details')).map((row) => [row.cells[0],"
        " row.querySelector('[data-head=verdict]')].map((cell) => cell.getBoundingClientRect())"
        ".flatMap(({ left, right, top }) => [left, right, top]))"
    )
    for left, middle, top, beside, right, top_too in page.seen(rows, width=WIDTHS[-1]):
        assert 0 <= left < middle <= beside < right <= WIDTHS[-1] and top == top_too


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_of_few_rows_is_whole(page, width):
    boxes = (
        "[...document.querySelectorAll('.numbered .output.text_html')].filter((box) =>"
        " !box.closest('details')"
        " && box.querySelectorAll('tbody tr:not(:has(.group))').length <= 16)"
        ".map((box) => box.scrollHeight - box.clientHeight)"
    )
    assert [hidden for hidden in page.seen(boxes, width=width) if hidden > 1] == []


def test_long_names_in_tables_break_at_underscores_and_folders_alone(page):
    broken = (
        "[...document.querySelectorAll('td code .pre')].flatMap((code) => [...code.childNodes])"
        ".filter((part) => { const range = document.createRange(); range.selectNode(part);"
        " return /^[\\w.]+[/]?$/.test(part.data) && range.getClientRects().length > 1; })"
        ".map((part) => part.data)"
    )
    assert page.seen(broken) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_no_interval_is_broken_into_lines(page, width):
    lines = "[...document.querySelectorAll('.interval')].map((e) => e.getClientRects().length)"
    assert set(page.seen(lines, width=width)) <= {0, 1}


def test_published_numbers_have_a_shade_of_their_own(page):
    tables = page.seen(
        "[...document.querySelectorAll('table.dataframe:has(thead)')].map((table) =>"
        " [/\\bpublished\\b/.test(table.tHead.textContent), !!table.querySelector('.published')])"
    )
    assert all(told == shaded for told, shaded in tables)


def test_a_row_has_one_label_and_no_row_of_heads_is_empty(page):
    assert page.seen("untidyTables()") == []


def test_nothing_is_cut_on_paper(page):
    assert page.seen("document.documentElement.scrollWidth", width=PAPER, paper=True) <= PAPER
    assert page.seen("hiddenColumns(true)", width=PAPER, paper=True) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out(page, theme):
    assert page.seen("faintTexts()", theme=theme) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(page, theme):
    page.seen("scrollTo(0, 0)", theme=theme)
    rules = {"runOnly": OF_COLOUR} if theme == "dark" else {}  # all else is as in the light
    found = Axe().run(page.tab, options=FAULTS | rules).response["violations"]
    assert [(fault["id"], node["html"][:200]) for fault in found for node in fault["nodes"]] == []


def test_every_image_is_told_in_words(page):
    assert page.seen("wordlessImages()") == []


def test_headings_are_in_order(page):
    assert page.seen("disorderedHeadings()") == []


def test_every_formula_is_set(page):
    assert page.seen("unsetFormulas()") == []


def test_no_formula_is_cut_on_a_laptop(page):
    formulas = page.seen(
        "[...document.querySelectorAll('div.math mjx-container')].filter((formula) =>"
        " formula.scrollWidth > formula.clientWidth + 2).map((formula) => formula.textContent)"
    )
    assert formulas == []


def test_a_keyboard_sees_where_it_is(page):
    page.tab.keyboard.press("Tab")
    assert page.seen("unseenFocus()") == []


def test_every_link_inside_the_book_leads_somewhere(page):
    targets = page.seen("[...document.querySelectorAll('a[href]')].map((link) => link.href)")
    inside = {target for target in targets if target.startswith("file:")}
    assert inside
    assert {target for target in inside if not leads_somewhere(target)} == set()


IDENTIFIERS: dict[Path, set[str]] = {}


def leads_somewhere(target: str) -> bool:
    parts = urlsplit(target)
    file = Path(unquote(parts.path))
    if not file.is_file() or not parts.fragment:
        return file.is_file()
    if file not in IDENTIFIERS:
        IDENTIFIERS[file] = set(re.findall(r'\bid="([^"]+)"', file.read_text()))
    return unquote(parts.fragment) in IDENTIFIERS[file]


@pytest.mark.parametrize(("name", "most"), [(TOC["root"], 1.0), ("book/every-score", 2.0)])
def test_a_page_is_light(name, most, window, built):
    opened = Opened(window, built / f"{name}.html")
    files = {Path(unquote(urlsplit(url).path)) for url in opened.asked if url.startswith("file:")}
    opened.tab.close()
    assert sum(len(gzip.compress(file.read_bytes())) for file in files) / 1e6 < most


def test_the_search_finds_a_measure(window, built):
    opened = Opened(window, built / "search.html")
    opened.tab.goto(f"{(built / 'search.html').as_uri()}?q=stable_quality")
    found = opened.tab.locator("#search-results li a", has_text="stable_quality").first
    assert "measures-spectra.html#gengap.measures" in found.get_attribute("href")
    opened.tab.close()
