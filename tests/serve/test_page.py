"""The page in a real Chromium: every way to ask, every way to go on, and nothing that leaves the origin."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from puma.search import Searcher
from puma.search.cutoffs import Cutoffs
from support.browsing import Visitor, launched, noise, shelf
from support.encoders import ToyEncoder
from support.served import png, served


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("indexes")
    toys = shelf(folder / "toys.index")
    with served({"toys": toys, "few": shelf(folder / "few.index", 3, toys.encoder)}) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


@pytest.fixture
def visitor(browser: Browser, address: str) -> Iterator[Visitor]:
    with Visitor(browser, address) as found:
        yield found


@pytest.fixture
def page(visitor: Visitor) -> Page:
    return visitor.page


def test_the_page_opens_with_what_the_index_holds(visitor: Visitor) -> None:
    page = visitor.open("/")
    expect(page.locator("h1")).to_be_visible()
    expect(page.locator("#text")).to_be_focused()
    expect(page.locator("#status")).to_contain_text("items in toys")
    assert page.locator(".card").count() > 5
    expect(page.locator(".card .number")).to_have_count(0)  # nothing was searched, nothing is scored


def test_typing_gives_scored_cards_of_every_kind(visitor: Visitor) -> None:
    page = visitor.open("/")
    page.keyboard.type("red")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text(visitor.results("The 24 best"))
    scores = [float(text.split()[-1]) for text in page.locator(".card .number").all_inner_texts()]
    assert len(scores) == 24
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.5
    assert page.title() == "red · PUMA"
    image = page.locator('.card[data-modality="image"] img').first
    image.scroll_into_view_if_needed()
    expect(image).to_have_js_property("complete", True)
    assert image.evaluate("image => image.naturalWidth") > 1
    expect(page.locator('.card[data-modality="text"] .paper').first).to_contain_text("red")


def test_what_to_get(visitor: Visitor) -> None:
    page = visitor.open("/?text=red")
    for label, modality in [("Pictures", "image"), ("Texts", "text"), ("Captioned pictures", "image,text")]:
        page.get_by_role("radio", name=label, exact=True).check()
        visitor.settled()
        kinds = set(page.locator(".card").evaluate_all("cards => cards.map((card) => card.dataset.modality)"))
        assert kinds == {modality}
        assert f"modality={modality.replace(',', '%2C')}" in page.url
    page.locator("#kinds input[value='']").check()
    visitor.settled()
    assert "modality" not in page.url


def test_pages_of_results_go_on_where_the_last_ended(visitor: Visitor) -> None:
    page = visitor.open("/?text=red")
    visitor.settled()
    page.locator("#more").click()
    expect(page.locator(".card:not(.bone)")).to_have_count(48)
    expect(page.locator(".card >> nth=24 >> .tile")).to_be_focused()
    page.locator("#more").click()
    expect(page.locator("#more")).to_be_hidden()
    expect(page.locator("#status")).to_contain_text("that is all")
    names = page.locator(".tile").evaluate_all("tiles => tiles.map((tile) => tile.ariaLabel ?? tile.innerText)")
    assert len(names) == len(set(names)) == visitor.rows


def test_a_image_is_picked_shown_and_removed(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.open("/")
    file = tmp_path / "mine.png"
    file.write_bytes(png((0, 0, 255), (64, 64)))
    with page.expect_request("**/search") as sent_request, page.expect_file_chooser() as chooser:
        page.locator("#pick").click()
        chooser.value.set_files(file)
    sent = json.loads(sent_request.value.post_data or "")
    # As it is, byte for byte: nothing is scaled that the service would take.
    assert base64.b64decode(sent["image"].partition(",")[2]) == file.read_bytes()
    visitor.settled()
    expect(page.locator(".given img")).to_have_js_property("naturalWidth", 64)
    expect(page.locator(".card >> nth=0")).to_contain_text("blue")
    assert "text=" not in page.url
    page.locator(".given").get_by_role("button", name="Remove: mine.png").click()
    expect(page.locator("html")).to_have_attribute("data-view", "home")
    expect(page.locator(".given")).to_have_count(0)


def test_a_image_is_pasted_and_words_change_it(visitor: Visitor) -> None:
    page = visitor.open("/")
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (text) => {
          const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
          const blob = new Blob([bytes], { type: "image/png" });
          await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        base64.b64encode(png((0, 255, 0), (32, 32))).decode(),
    )
    page.keyboard.press("Control+V")
    expect(page.locator(".given .what")).to_have_text("Your picture")
    visitor.settled()
    expect(page.locator(".card >> nth=0")).to_contain_text("green")
    with page.expect_request("**/search") as sent_request:
        page.locator("#text").fill("red")
        page.keyboard.press("Enter")
    sent = json.loads(sent_request.value.post_data or "")
    assert sent["text"] == "red"
    assert sent["image"].startswith("data:image/png;base64,")
    visitor.settled()
    page.locator("#text").fill("")
    with page.expect_request("**/search") as sent_request:
        page.keyboard.press("Enter")
    assert "text" not in json.loads(sent_request.value.post_data or "")
    visitor.settled()
    page.keyboard.press("Backspace")
    expect(page.locator(".given")).to_have_count(0)


def test_a_image_is_dropped_and_what_is_none_is_told(visitor: Visitor) -> None:
    page = visitor.open("/")
    visitor.drag("dragover", "fox.png", "image/png", png((255, 0, 0), (32, 32)))
    expect(page.locator("#drop")).to_be_visible()
    visitor.drag("drop", "fox.png", "image/png", png((255, 0, 0), (32, 32)))
    expect(page.locator(".given .what")).to_have_text("Your picture")
    visitor.settled()
    expect(page.locator("#drop")).to_be_hidden()
    expect(page.locator(".card >> nth=0")).to_contain_text("red")
    for name, kind, data, message in [
        ("notes.txt", "text/plain", b"words", "notes.txt is not a picture"),
        ("drawing.svg", "image/svg+xml", b"<svg/>", "SVG drawings cannot be searched with"),
        ("none.png", "image/png", b"", "none.png is empty"),
    ]:
        visitor.drag("drop", name, kind, data)
        expect(page.locator("#status.alarm")).to_contain_text(message)
    visitor.drag("drop", None, "text/uri-list", b"https://example.org/fox.png")
    expect(page.locator("#status.alarm")).to_contain_text("a link, not a picture")


def test_search_with_this_result_and_minus_a_word(visitor: Visitor) -> None:
    page = visitor.open("/?text=blue")
    visitor.settled()
    card = page.locator('.card[data-modality="image,text"]').first
    name = card.locator(".caption").inner_text()
    with page.expect_request("**/search") as sent_request:
        card.get_by_role("button", name=f"More like this: {name}").click()
    sent = json.loads(sent_request.value.post_data or "")
    assert "text" not in sent
    visitor.settled()
    expect(page.locator(".given")).to_have_attribute("title", name)
    assert f"item={sent['item']}" in page.url
    assert name not in page.locator(".card .caption").all_inner_texts()  # not the item itself
    expect(page.locator(".tile").first).to_be_focused()

    other = page.locator('.card[data-modality="image,text"]').first
    words = other.locator(".caption").inner_text().lower()
    other.get_by_role("button", name="without a word").click()
    expect(page.locator("#without")).to_be_visible()
    suggested = page.locator("#without .suggested button").all_inner_texts()
    assert suggested
    assert all(word in words for word in suggested)
    page.keyboard.type("green")
    with page.expect_request("**/search") as sent_request:
        page.keyboard.press("Enter")
    sent = json.loads(sent_request.value.post_data or "")
    assert sent["minus"] == ["green"]
    assert sent["item"]
    visitor.settled()
    expect(page.locator("#words li")).to_have_text(["green"])
    with page.expect_request("**/search") as sent_request:
        page.get_by_role("button", name="No longer without green").click()
    assert "minus" not in json.loads(sent_request.value.post_data or "")


def test_words_to_stay_away_from(visitor: Visitor) -> None:
    page = visitor.open("/?text=red+blue")
    visitor.settled()
    before = page.locator(".card").first.inner_text()
    page.locator("#word").fill("blue, blue , sea")
    page.keyboard.press("Enter")
    visitor.settled()
    expect(page.locator("#words li")).to_have_text(["blue", "sea"])
    assert "minus=blue&minus=sea" in page.url
    expect(page.locator(".card").first).not_to_have_text(before)
    page.keyboard.press("Backspace")
    visitor.settled()
    expect(page.locator("#words li")).to_have_text(["blue"])


def test_choice_of_index(visitor: Visitor) -> None:
    page = visitor.open("/")
    expect(page.locator("#index option")).to_have_text([f"toys · {visitor.rows}", "few · 3"])
    page.locator("#index").select_option("few")
    expect(page.locator(".card")).to_have_count(3)
    assert page.url.endswith("/?index=few")
    page.locator("#text").fill("red")
    page.locator("#go").click()
    visitor.settled()
    expect(page.locator("#status")).to_contain_text("3 results, that is all")
    page.reload()
    visitor.settled()
    expect(page.locator("#index")).to_have_value("few")
    expect(page.locator(".card")).to_have_count(3)


def test_the_choice_of_index_does_not_stand_on_a_line_alone(visitor: Visitor) -> None:
    page = visitor.open("/")

    def middle(part: str) -> float:
        box = page.locator(part).bounding_box()
        assert box is not None
        return float(box["y"] + box["height"] / 2)

    middles = [middle(part) for part in ("#kinds", "#minus", "#alike", "#index")]
    assert max(middles) - min(middles) < 5  # at the window's width of 1,280 all is in one line
    page.set_viewport_size({"width": 900, "height": 800})
    assert abs(middle("#alike") - middle("#index")) < 5
    assert middle("#index") > middle("#kinds") + 20


def test_links_are_shared_and_the_history_works(visitor: Visitor) -> None:
    page = visitor.open("/?text=green+tea&modality=text&minus=red&index=toys")
    visitor.settled()
    expect(page.locator("#text")).to_have_value("green tea")
    expect(page.locator("#kinds input[value='text']")).to_be_checked()
    expect(page.locator("#words li")).to_have_text(["red"])
    first = page.locator(".card").first.inner_text()
    page.get_by_role("radio", name="Everything").check()
    visitor.settled()
    page.locator("#text").fill("blue")
    page.keyboard.press("Enter")
    visitor.settled()
    page.locator("#more").click()
    visitor.settled()
    shown = page.locator(".card:not(.bone)").count()
    page.go_back()
    page.go_back()
    expect(page.get_by_role("radio", name="Texts")).to_be_checked()
    expect(page.locator("#text")).to_have_value("green tea")
    expect(page.locator(".card").first).to_have_text(first, use_inner_text=True)
    count = len(visitor.searches())
    page.go_forward()
    page.go_forward()
    expect(page.locator("#text")).to_have_value("blue")
    expect(page.locator(".card:not(.bone)")).to_have_count(shown)
    assert len(visitor.searches()) == count  # what was shown is remembered
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#share").click()
    expect(page.locator("#status")).to_have_text("The link is copied.")
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    page.locator("#brand").click()
    expect(page.locator("html")).to_have_attribute("data-view", "home")
    expect(page.locator("#text")).to_have_value("")


def test_going_back_to_a_image(visitor: Visitor) -> None:
    page = visitor.open("/")
    visitor.drag("drop", "sea.png", "image/png", png((0, 0, 255), (32, 32)))
    expect(page.locator(".given .what")).to_have_text("Your picture")
    visitor.settled()
    page.locator(".card >> nth=2").get_by_role("button", name="More like this:").click()
    expect(page.locator(".given .what")).to_have_text("Like this")
    visitor.settled()
    page.go_back()
    expect(page.locator(".given .what")).to_have_text("Your picture")
    expect(page.locator(".given img")).to_have_js_property("naturalWidth", 32)
    page.reload()
    expect(page.locator("#status.alarm")).to_contain_text("not kept when the page is loaded again")


def test_a_link_to_an_item_shows_what_it_is(visitor: Visitor) -> None:
    page = visitor.open("/?item=captioned-1")
    visitor.settled()
    expect(page.locator(".given")).to_have_attribute("title", visitor.caption("captioned-1"))
    expect(page.locator(".given img")).to_be_visible()


def test_keyboard_alone(visitor: Visitor) -> None:
    page = visitor.open("/?text=red")
    visitor.settled()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#results")).to_be_focused()
    page.keyboard.press("/")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("blue")  # in place of what was there: it is selected
    expect(page.locator("#text")).to_have_value("blue")
    page.keyboard.press("Enter")
    visitor.settled()
    page.keyboard.press("ArrowDown")
    tile = page.locator(".tile")
    expect(tile.nth(0)).to_be_focused()
    columns = page.locator(".card").evaluate_all(
        "cards => cards.filter((c) => c.offsetTop === cards[0].offsetTop).length"
    )
    for key, place in [
        ("ArrowRight", 1),
        ("ArrowDown", 1 + columns),
        ("ArrowLeft", columns),
        ("ArrowUp", 0),
        ("End", 23),
        ("Home", 0),
    ]:
        page.keyboard.press(key)
        expect(tile.nth(place)).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("#detail")).to_be_visible()
    title = page.locator("#detail").inner_text()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#detail")).not_to_have_text(title, use_inner_text=True)
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    expect(tile.nth(1)).to_be_focused()
    # One stop for the grid: its card and the card's two buttons, then what comes after.
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.locator("#more")).to_be_focused()
    tile.nth(1).focus()
    page.keyboard.press("-")
    expect(page.locator("#without-word")).to_be_focused()
    page.keyboard.press("Escape")
    expect(tile.nth(1)).to_be_focused()
    page.keyboard.press("m")
    expect(page.locator(".given .what")).to_have_text("Like this")
    visitor.settled()
    expect(tile.nth(0)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("sea")
    page.keyboard.press("Escape")
    expect(page.locator("#text")).to_have_value("")
    page.locator("#brand").focus()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()


def test_an_open_result_says_everything_and_hides_its_folder(visitor: Visitor) -> None:
    page = visitor.open("/?text=red&modality=image")
    visitor.settled()
    page.locator(".tile").first.click()
    sheet = page.locator("#detail")
    expect(sheet.locator("img.large")).to_be_visible()
    for word in ["Score", "picture", ".png", "brand"]:
        expect(sheet).to_contain_text(word)
    assert "/home/someone" not in page.content()
    sheet.get_by_role("button", name="More like this", exact=True).click()
    expect(page.locator(".given .what")).to_have_text("Like this")


def test_a_long_text_leaves_an_open_results_buttons_in_sight(browser: Browser, tmp_path: Path) -> None:
    text = "red " + "a text of many words about the sea and the ships on it. " * 300 + "the end"
    toys = Searcher(ToyEncoder(), tmp_path / "toys.index")
    toys.add([{"text": text}, {"text": text, "image": png()}], ["words", "captioned"], [{"text": text}] * 2)
    with served({"toys": toys}) as address, Visitor(browser, address) as visitor:
        for modality in ("text", "image%2Ctext"):
            page = visitor.open(f"/?text=red&modality={modality}")
            page.locator(".tile").first.click()
            sheet = page.locator("#detail")
            more = sheet.get_by_role("button", name="More like this", exact=True)
            without = sheet.get_by_role("button", name="Without a word…", exact=True)
            for width, height in ((1280, 800), (360, 640)):
                page.set_viewport_size({"width": width, "height": height})
                sheet.evaluate("sheet => sheet.scrollTo(0, 0)")
                for button in (more, without):
                    expect(button).to_be_in_viewport(ratio=1)
                sheet.evaluate("sheet => sheet.scrollTo(0, sheet.scrollHeight)")
                last, first = sheet.locator("dl").bounding_box(), more.bounding_box()
                assert last is not None
                assert first is not None
                assert last["y"] + last["height"] <= first["y"]  # at the end they cover nothing
            page.set_viewport_size({"width": 1280, "height": 800})
            more.click()
            expect(page.locator(".given .what")).to_have_text("Like this")


def test_what_comes_from_the_index_is_never_markup(visitor: Visitor) -> None:
    page = visitor.open("/?text=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E")
    visitor.settled()
    expect(page.locator(".words", has_text="<b>bold</b>").first).to_be_visible()
    assert page.locator(".card b").count() == 0


def test_a_large_image_is_made_smaller_only_if_it_must_be(browser: Browser, tmp_path: Path) -> None:
    plain, heavy, wide = png((0, 0, 255), (90, 90)), noise(400, 300), png((0, 0, 255), (1000, 400))
    with served(shelf(tmp_path / "toys.index", 12), max_image_bytes=100_000, max_image_pixels=300_000) as address:
        assert len(wide) < 100_000 < len(heavy)
        with Visitor(browser, address) as visitor:
            page = visitor.open("/")
            for data, kind in [(plain, "image/png"), (heavy, "image/jpeg"), (wide, "image/jpeg")]:
                with page.expect_request("**/search") as sent_request:
                    visitor.drag("drop", "one.png", "image/png", data)
                head, _, body = json.loads(sent_request.value.post_data or "")["image"].partition(",")
                assert head == f"data:{kind};base64"
                sent = base64.b64decode(body)
                assert (sent == data) == (data is plain)
                assert len(sent) <= 100_000
                visitor.settled()
                width, height = Image.open(io.BytesIO(sent)).size
                assert 8_000 < width * height <= 300_000
            assert width / height == pytest.approx(2.5, rel=0.01)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that are really there: large and small ones of three colours."""
    folder = tmp_path_factory.mktemp("files") / "holiday pictures"
    folder.mkdir()
    for name, colour in {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}.items():
        (folder / f"{name}.png").write_bytes(png(colour, (90, 60)))
        (folder / f"{name} small.png").write_bytes(png(colour, (45, 30)))
    return folder


@pytest.fixture
def own(browser: Browser, files: Path, tmp_path: Path) -> Iterator[Visitor]:
    """A visitor of a service for this machine alone, which gives out originals."""
    searcher = Searcher(ToyEncoder(), tmp_path / "mine.index")
    searcher.add_paths([files], progress=False)
    with served({"mine": searcher}, originals=True) as address, Visitor(browser, address) as found:
        found.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
        yield found


def test_an_open_result_leads_to_its_file(own: Visitor, files: Path) -> None:
    page = own.open("/?text=red")
    own.settled()
    page.locator(".tile").first.click()
    sheet = page.locator("#detail")
    name = sheet.locator("#detail-title").inner_text()
    path = files / name
    for fact in (str(path), str(files), "pixels", name):
        expect(sheet).to_contain_text(fact)
    with page.expect_popup() as opened:
        sheet.get_by_role("link", name="Open original").click()
    opened.value.wait_for_load_state()
    # No script runs in it, so what the browser shows is looked at.
    shown = Image.open(io.BytesIO(opened.value.screenshot())).convert("RGB")
    with Image.open(path) as file:
        (width, height), colour = file.size, file.convert("RGB").getpixel((5, 5))
    counts = {shade: count for count, shade in shown.getcolors(2**22) or []}
    assert counts.get(colour) == width * height
    opened.value.close()
    with page.expect_download() as saved:
        sheet.get_by_role("link", name="Download").click()
    assert saved.value.suggested_filename == name
    assert Path(saved.value.path()).read_bytes() == path.read_bytes()
    sheet.get_by_role("button", name="Copy the path").click()
    expect(sheet.get_by_role("button", name="Copy the path")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == str(path)
    page.keyboard.press("ArrowRight")
    expect(sheet.locator("#detail-title")).not_to_have_text(name)
    expect(sheet.get_by_role("link", name="Open original")).to_be_visible()


def test_near_duplicates_as_one(own: Visitor) -> None:
    page = own.open("/?text=red")
    own.settled()
    expect(page.locator(".card")).to_have_count(6)
    page.get_by_label("Near-duplicates as one").check()
    own.settled()
    expect(page.locator(".card")).to_have_count(3)
    expect(page.locator(".card .more")).to_have_text(["+1"] * 3)
    assert "alike=1" in page.url
    page.locator(".tile").first.click()
    expect(page.locator("#detail")).to_contain_text("Nearly the same")
    expect(page.locator("#detail .alike li")).to_have_count(1)
    page.keyboard.press("Escape")
    page.go_back()
    own.settled()
    expect(page.locator(".card")).to_have_count(6)
    expect(page.get_by_label("Near-duplicates as one")).not_to_be_checked()


def test_without_originals_there_is_no_way_to_a_file(visitor: Visitor) -> None:
    page = visitor.open("/?text=red&modality=image")
    visitor.settled()
    page.locator(".tile").first.click()
    expect(page.locator("#detail img.large")).to_be_visible()
    expect(page.locator("#detail").get_by_role("link")).to_have_count(0)
    expect(page.get_by_role("button", name="Copy the path")).to_have_count(0)


def test_weak_results_are_marked(browser: Browser, tmp_path: Path) -> None:
    cutoffs = Cutoffs({("text", "image", "image"): 0.8, ("text", "text", "text"): 2.0})
    toys = {"toys": shelf(tmp_path / "toys.index", 27)}
    with served(toys, cutoffs=cutoffs) as address, Visitor(browser, address) as visitor:
        page = visitor.open("/?text=red")
        visitor.settled()
        for card in page.locator('.card[data-modality="text"]').all():
            expect(card.locator(".weak")).to_have_text("weak")
        strong = page.locator('.card[data-modality="image"]').first
        expect(strong.locator(".weak")).to_have_count(0)
        expect(page.locator('.card[data-modality="image,text"] .weak')).to_have_count(0)


@pytest.mark.parametrize("originals", [True, False])
def test_an_open_result_names_the_other_places_of_its_content(
    browser: Browser, tmp_path: Path, originals: bool
) -> None:
    folders = [tmp_path / "pictures" / name for name in ("a", "b", "c", "d", "e")]
    for place, folder in enumerate(folders):
        folder.mkdir(parents=True)
        (folder / f"red {place}.png").write_bytes(png((255, 0, 0), (90, 60)))
    for place, folder in enumerate(folders[:2]):
        (folder / f"green {place}.png").write_bytes(png((0, 255, 0), (90, 60)))
    (folders[0] / "blue.png").write_bytes(png((0, 0, 255), (90, 60)))
    (folders[0] / "words.jsonl").write_text('{"text": "red", "shelf": 1}\n{"text": "red", "shelf": "<i>2</i>"}\n')
    searcher = Searcher(ToyEncoder(), tmp_path / "mine.index")
    searcher.add_paths([tmp_path / "pictures"], progress=False)
    with served({"mine": searcher}, originals=originals) as address, Visitor(browser, address) as visitor:
        sheet = visitor.page.locator("#detail")
        places = sheet.locator(".alike li")

        def look(text: str, modality: str) -> None:
            visitor.open(f"/?text={text}&modality={modality}")
            visitor.settled()
            visitor.page.locator(".tile").first.click()

        look("red", "image")
        expect(sheet).to_contain_text("Also at")
        expect(places).to_have_count(4)
        hidden = sheet.locator("details li")
        expect(hidden).to_have_count(1)
        expect(hidden).to_be_hidden()
        sheet.locator("summary", has_text="1 more").click()
        expect(hidden).to_be_visible()
        found = {*places.all_inner_texts(), sheet.locator("#detail-title").inner_text()}
        files = [folder / f"red {place}.png" for place, folder in enumerate(folders)]
        if originals:
            own = next(path for path in files if path.name in found)
            assert found == {str(path) for path in files if path != own} | {own.name}
        else:
            assert found == {path.name for path in files}
            assert str(tmp_path) not in visitor.page.content()
        look("green", "image")
        expect(places).to_have_count(1)
        expect(places).to_contain_text("green")
        expect(sheet.locator("details")).to_have_count(0)
        look("blue", "image")
        expect(sheet).to_contain_text("blue.png")
        expect(sheet).not_to_contain_text("Also at")
        look("red", "text")  # a text's other places differ by what is said of it there, which is never markup
        expect(places).to_have_count(1)
        expect(places).to_have_text(re.compile(r"^shelf: (1|<i>2</i>)$"))
