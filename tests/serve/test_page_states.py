"""The page when things are not as they should be, and how its states look: faults, sign-in, axe, widths, colours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

from puma.search import Searcher
from support.browsing import Visitor, launched, noise, shelf
from support.encoders import ToyEncoder
from support.served import png, served

FAILED_LOAD = "Failed to load resource"
WIDTHS = (320, 768, 1280)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("indexes")
    toys = shelf(folder / "toys.index")
    with served({"toys": toys, "bare": Searcher(toys.encoder, folder / "bare.index")}) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


@pytest.fixture
def visitor(browser: Browser, address: str) -> Iterator[Visitor]:
    with Visitor(browser, address, expected=FAILED_LOAD) as found:
        yield found


def check_looks(page: Page) -> None:
    """No violation that axe knows in light and dark, no scrolling sideways at any width."""
    for theme, options in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
        found = Axe().run(page, options=options)
        assert found.violations_count == 0, found.generate_report()
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 720})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        over = page.evaluate(
            """width => [...document.querySelectorAll("body *")].filter((node) => {
              const box = node.getBoundingClientRect();
              return box.width && (box.right > width + 0.5 || box.left < -0.5);
            }).map((node) => node.outerHTML.slice(0, 120))""",
            width,
        )
        assert over == []


def _home(visitor: Visitor) -> None:
    visitor.open("/")


def _results(visitor: Visitor) -> None:
    page = visitor.open("/?text=" + "red+fox+" * 12 + "&minus=" + "averyveryverylongword" * 3 + "&minus=snow")
    page.locator(".tile").first.focus()


def _image(visitor: Visitor) -> None:
    page = visitor.open("/?text=red")
    visitor.drag("drop", "a name as long as names of files can be, and then somewhat longer.png", "image/png", png())
    expect(page.locator(".given .what")).to_have_text("Your picture")
    visitor.settled()


def _detail(visitor: Visitor) -> None:
    page = visitor.open("/?text=blue&modality=image%2Ctext")
    page.locator(".tile").first.click()
    expect(page.locator("#detail")).to_be_visible()


def _without(visitor: Visitor) -> None:
    page = visitor.open("/?text=blue&modality=text")
    page.locator(".tile").first.focus()
    page.keyboard.press("-")
    expect(page.locator("#without")).to_be_visible()


def _keys(visitor: Visitor) -> None:
    visitor.open("/").locator("#help").click()


def _empty(visitor: Visitor) -> None:
    page = visitor.open("/?index=bare")
    expect(page.locator("#panel h2")).to_have_text("“bare” is empty")


def _nothing(visitor: Visitor) -> None:
    page = visitor.open("/?index=bare&text=red&modality=text&minus=blue")
    expect(page.locator("#panel h2")).to_have_text("Nothing found")


def _loading(visitor: Visitor) -> None:
    page = visitor.open("/")
    page.route("**/search", lambda route: None)
    page.locator("#text").fill("red")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("Searching…")
    expect(page.locator(".bone")).to_have_count(15)
    assert page.locator("#status").get_attribute("aria-live") == "polite"
    assert page.locator("#results").get_attribute("aria-busy") == "true"


def _fault(visitor: Visitor) -> None:
    page = visitor.open("/")
    page.route("**/search", lambda route: route.fulfill(status=500, json={"error": {"message": "the encoder failed"}}))
    page.locator("#text").fill("red")
    page.keyboard.press("Enter")
    expect(page.locator("#panel")).to_contain_text("the encoder failed")


STATES = [_home, _results, _image, _detail, _without, _keys, _empty, _nothing, _loading, _fault]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__[1:])
def test_every_state_is_accessible_and_fits(visitor: Visitor, state: Callable[[Visitor], None]) -> None:
    state(visitor)
    check_looks(visitor.page)


def test_no_index(browser: Browser) -> None:
    with served({}) as address, Visitor(browser, address) as visitor:
        page = visitor.open("/")
        expect(page.locator("#panel h2")).to_have_text("There is nothing to search yet")
        expect(page.locator("#panel")).to_contain_text("puma serve my.index")
        check_looks(page)


def test_an_empty_index_that_fills(browser: Browser, tmp_path: Path) -> None:
    searcher = Searcher(ToyEncoder(), tmp_path / "new.index")
    with served(searcher) as address, Visitor(browser, address) as visitor:
        page = visitor.open("/")
        expect(page.locator("#panel h2")).to_have_text("“new” is empty")
        searcher.add(["red fox"])
        page.get_by_role("button", name="Look again").click()
        expect(page.locator(".card")).to_have_count(1)
        expect(page.locator("#panel")).to_be_hidden()


def test_an_index_that_is_not_there(visitor: Visitor) -> None:
    page = visitor.open("/?text=red&index=gone")
    expect(page.locator("#panel h2")).to_have_text("There is no index “gone” here")
    page.get_by_role("button", name="Search in toys").click()
    visitor.settled()
    expect(page.locator(".card")).to_have_count(24)


def test_what_the_service_refuses_is_told_in_its_words(visitor: Visitor) -> None:
    page = visitor.open("/")
    visitor.drag("drop", "broken.png", "image/png", png()[:40])
    expect(page.locator("#panel h2")).to_have_text("This picture cannot be used")
    page.get_by_role("button", name="Start again").click()
    expect(page.locator(".given")).to_have_count(0)
    expect(page.locator("html")).to_have_attribute("data-view", "home")
    page.goto(visitor.address + "/?item=nobody")
    expect(page.locator("#panel")).to_contain_text("nobody")


def test_a_picture_that_the_service_cannot_read_can_be_replaced_or_left_out(visitor: Visitor) -> None:
    page = visitor.open("/?text=red")
    whole = noise(200, 200)
    page.set_input_files("#file", {"name": "cut.png", "mimeType": "image/png", "buffer": whole[: len(whole) // 2]})
    expect(page.locator("#panel h2")).to_have_text("This picture cannot be used")
    line = page.locator("#panel p")
    expect(line).to_contain_text("cut.png: cannot be decoded, the file is damaged or incomplete")
    expect(line).not_to_contain_text("Error")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    with page.expect_file_chooser():
        page.get_by_role("button", name="Choose another picture").click()
    page.get_by_role("button", name="Search by the words alone").click()
    expect(page.locator("#status")).to_have_text(visitor.results("The 24 best"))
    expect(page.locator("#givens .given")).to_have_count(0)


def test_an_item_that_is_gone_is_told_and_can_be_left_out(visitor: Visitor) -> None:
    page = visitor.open("/?item=gone&text=red&index=toys")
    expect(page.locator("#panel h2")).to_have_text("This item is not in the index")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    page.get_by_role("button", name="Search by the words alone").click()
    expect(page.locator("#status")).to_have_text(visitor.results("The 24 best"))
    expect(page.locator("#givens .given")).to_have_count(0)


def test_a_fault_can_be_tried_again(visitor: Visitor) -> None:
    _fault(visitor)
    page = visitor.page
    page.unroute("**/search")
    page.get_by_role("button", name="Try again").click()
    visitor.settled()
    expect(page.locator(".card")).to_have_count(24)
    page.route("**/search", lambda route: route.fulfill(status=502, body="<html>"))
    page.locator("#more").click()
    expect(page.locator("#status.alarm")).to_contain_text("Press “More results” to try again")
    expect(page.locator(".card")).to_have_count(24)  # what came stays
    page.unroute("**/search")
    page.locator("#more").click()
    expect(page.locator(".card:not(.bone)")).to_have_count(48)


def test_busy_waits_as_long_as_it_is_told(visitor: Visitor) -> None:
    page = visitor.open("/")
    answers = iter([1, 1])

    def once(route: Route) -> None:
        wait = next(answers, None)
        if wait is None:
            route.fallback()
        else:
            route.fulfill(
                status=429, headers={"Retry-After": str(wait)}, json={"error": {"message": "the queue is full"}}
            )

    page.route("**/search", once)
    page.locator("#text").fill("red")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("The service is busy. Trying again in 1 s…")
    visitor.settled()
    expect(page.locator(".card")).to_have_count(24)
    first, second, third = (request.timing["startTime"] for request in visitor.searches())
    assert second - first >= 900
    assert third - second >= 900


def test_waiting_can_be_stopped(visitor: Visitor) -> None:
    page = visitor.open("/")
    page.route("**/search", lambda route: route.fulfill(status=429, headers={"Retry-After": "30"}, json={}))
    page.locator("#text").fill("red")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("Trying again in")
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_have_text("Stopped.")
    expect(page.locator("#text")).to_have_value("red")
    assert len(visitor.searches()) == 1


def test_an_answer_that_comes_too_late_is_not_shown(visitor: Visitor) -> None:
    page = visitor.open("/")
    held: list[Route] = []

    def hold(route: Route) -> None:
        if json.loads(route.request.post_data or "")["text"] == "red":
            held.append(route)
        else:
            route.fallback()

    page.route("**/search", hold)
    page.locator("#text").fill("red")
    page.keyboard.press("Enter")
    expect(page.locator(".bone")).to_have_count(15)
    page.locator("#text").fill("blue")
    page.keyboard.press("Enter")
    visitor.settled()
    assert held
    expect(page.locator(".card >> nth=0")).to_contain_text("blue")
    expect(page.locator("#status")).to_contain_text("24 best")


def test_a_service_that_is_gone_and_comes_back(visitor: Visitor) -> None:
    page = visitor.open("/?text=red")
    visitor.context.set_offline(True)
    page.locator("#text").fill("blue")
    page.keyboard.press("Enter")
    expect(page.locator("#panel h2")).to_have_text("The service does not answer")
    check_looks(page)
    visitor.context.set_offline(False)
    expect(page.locator(".card >> nth=0")).to_contain_text("blue")  # by itself
    expect(page.locator("#panel")).to_be_hidden()


def test_the_token_is_asked_for_and_given_back(browser: Browser, tmp_path: Path) -> None:
    with (
        served(shelf(tmp_path / "toys.index", 9), token="open-sesame") as address,
        Visitor(browser, address, expected=FAILED_LOAD) as visitor,
    ):
        page = visitor.page
        page.goto(address + "/?text=red")
        dialog = page.locator("#token")
        expect(dialog).to_be_visible()
        expect(page.locator("#token-text")).to_be_focused()
        check_looks(page)
        page.keyboard.press("Escape")
        expect(page.locator("#panel h2")).to_have_text("This search is private")
        page.get_by_role("button", name="Enter the token").click()
        expect(page.locator("#token-text")).to_be_focused()
        page.keyboard.type("guess")
        page.keyboard.press("Enter")
        expect(dialog.locator(".fault")).to_have_text("This is not the token.")
        page.locator("#token-text").fill("open-sesame")
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        visitor.settled()
        expect(page.locator(".card")).to_have_count(9)
        image = page.locator(".card img").first
        expect(image).to_have_js_property("complete", True)
        assert image.evaluate("image => image.naturalWidth") > 1  # images come with the cookie too
        cookies = visitor.context.cookies()
        assert [(cookie["httpOnly"], cookie["sameSite"]) for cookie in cookies] == [(True, "Strict")]
        assert "sesame" not in json.dumps(cookies) + page.evaluate("JSON.stringify(localStorage)")
        page.reload()
        visitor.settled()
        expect(page.locator(".card")).to_have_count(9)
        page.get_by_role("button", name="Sign out").click()
        expect(dialog).to_be_visible()
        assert visitor.context.cookies() == []


def test_dark_and_light(browser: Browser, address: str) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with Visitor(browser, address, color_scheme="dark") as visitor:
        page = visitor.open("/")
        dark = page.evaluate(ground)
        switch = page.get_by_role("button", name="Dark colours")
        expect(switch).to_have_attribute("aria-pressed", "true")
        switch.click()
        expect(switch).to_have_attribute("aria-pressed", "false")
        light = page.evaluate(ground)
        assert light != dark
        page.reload()
        assert page.evaluate(ground) == light
        page.evaluate("localStorage.clear()")
        page.reload()
        assert page.evaluate(ground) == dark
        page.emulate_media(color_scheme="light")
        assert page.evaluate(ground) == light


def test_motion_is_left_out_where_it_is_not_wanted(browser: Browser, address: str) -> None:
    with Visitor(browser, address) as visitor:
        page = visitor.open("/")
        running = "Number(getComputedStyle(document.querySelector('.card')).animationName !== 'none')"
        assert page.evaluate(running) == 0
        page.emulate_media(reduced_motion="no-preference")
        assert page.evaluate(running) > 0
