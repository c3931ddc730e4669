"""Figures of points answer to a pointer, and are images on paper and without scripts."""

from urllib.parse import urlsplit

import pytest

PAGE = "book/chapters/01-small-cnn-zoo.html"
FIGURE = "figure.numbered:has(> script)"


@pytest.fixture
def figure(window, built):
    """The first figure of points, and what its page asked for."""
    tab = window.new_page()
    tab.set_viewport_size({"width": 1280, "height": 900})
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((built / PAGE).as_uri())
    yield tab.locator(FIGURE).first, asked
    tab.close()


def drawn(figure):
    figure.scroll_into_view_if_needed()
    figure.locator(".chart svg").wait_for()
    return figure.locator(".chart")


def test_a_chart_is_loaded_when_it_comes_into_view_and_from_the_book_alone(figure):
    place, asked = figure
    place.page.wait_for_load_state()
    assert not [url for url in asked if "vega" in url]
    drawn(place)
    assert len([url for url in asked if url.endswith("_static/vega.js")]) == 1
    assert {urlsplit(url).scheme for url in asked} <= {"file", "data"}


def test_a_pointer_on_a_point_is_told_which_network_it_is(figure):
    place, _ = figure
    drawn(place).locator(".mark-symbol path").first.hover(force=True)
    told = place.page.locator("#vg-tooltip-element")
    told.get_by_text("model id").wait_for()
    assert all(name in told.inner_text() for name in ("training accuracy", "learning rate"))


def test_its_texts_are_read_in_the_dark(figure):
    place, _ = figure
    chart = drawn(place)
    place.page.evaluate("document.documentElement.dataset.theme = 'dark'")
    text = chart.locator("svg text").first
    colours = "[getComputedStyle(node).fill, getComputedStyle(document.body).color]"
    assert len(set(text.evaluate(f"node => {colours}"))) == 1


def test_on_paper_the_image_stands_in_its_place(figure):
    place, _ = figure
    chart, image = drawn(place), place.locator("> img")
    assert chart.is_visible() and not image.is_visible()
    place.page.emulate_media(media="print")
    assert image.is_visible() and not chart.is_visible()


def test_without_scripts_there_is_the_image(window, built):
    context = window.browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((built / PAGE).as_uri())
    assert tab.locator(f"{FIGURE} > img").first.is_visible()
    context.close()


def test_a_pointer_on_a_measure_of_the_front_page_shows_it_in_all_rows(window, built):
    tab = window.new_page()
    tab.goto((built / "book" / "intro.html").as_uri())
    point = tab.locator(".hero circle.measure:has(title)", has_text="PGDL, task 7").first
    point.hover(force=True)
    tab.locator(".hero circle.same").first.wait_for()
    told = tab.locator(".hero .told").text_content()  # of the uppermost one there
    lit = tab.locator(".hero circle.same title").all_text_contents()
    assert "PGDL, task 7" in told and {text.split(":")[0] for text in lit} == {told.split(":")[0]}
    assert 1 < len(lit) <= tab.locator(".hero circle.settings:has(title)").count()
    tab.close()
