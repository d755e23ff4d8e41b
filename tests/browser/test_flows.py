"""Each way to give the page a picture, and what it makes of the answers, on the shared graph."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import OpenPage
from tests.browser.playground import HEART, PICTURES, Visit, stages_of
from tests.local_graph import SLOW_S, Graph

PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
CROSS = (((60, 224), (388, 224)), ((224, 60), (224, 388)))


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_that_is_handed_over_is_named(page: Visit, way: str) -> None:
    page.hand_over(way, HEART)
    (label, probability), *others = page.predictions()
    assert (label, probability, len(others)) == ("heart", "> 99.9 %", 4)
    page.heard("shapes, version 1, says heart, > 99.9 %.")


def test_a_chosen_picture_is_shown_and_named(page: Visit) -> None:
    page.choose(PICTURES / "005-star.jpg")
    assert page.predictions()[0][0] == "star"
    assert page.page.get_by_role("img", name="The picture 005-star.jpg").is_visible()


def test_a_sample_is_named_by_keyboard_alone(page: Visit) -> None:
    page.page.keyboard.press("Tab")
    assert page.page.evaluate("document.activeElement.textContent") == "Skip to the picture"
    page.page.keyboard.press("Enter")
    for _ in range(3):  # Choose, draw, and the first sample.
        page.page.keyboard.press("Tab")
    page.page.keyboard.press("Enter")
    page.heard("says heart")


def test_on_a_phone_the_camera_is_one_tap_away(visit: OpenPage, graph: Graph) -> None:
    phone = visit(f"{graph.url}/", **PHONE, reduced_motion="reduce")
    phone.await_models()
    camera = phone.page.get_by_label("Take a photo")
    assert (camera.is_visible(), camera.get_attribute("capture")) == (True, "environment")
    camera.set_input_files(HEART)
    assert phone.predictions()[0][0] == "heart"
    assert phone.page.evaluate("document.documentElement.scrollWidth") == PHONE["viewport"]["width"]
    assert phone.page.evaluate("getComputedStyle(document.querySelector('.fill')).transitionDuration") == "0s"


def test_what_is_drawn_is_named_stroke_by_stroke(page: Visit) -> None:
    page.page.get_by_role("button", name="Draw one").click()
    box = page.page.get_by_role("application", name="Drawing area").bounding_box()
    assert box is not None
    mouse, scale = page.page.mouse, box["width"] / 448
    for strokes, ((x, y), (to_x, to_y)) in enumerate(CROSS):
        mouse.move(box["x"] + x * scale, box["y"] + y * scale)
        mouse.down()
        mouse.move(box["x"] + to_x * scale, box["y"] + to_y * scale, steps=4)
        with page.page.expect_response("**/predict?*"):
            mouse.up()
        assert len(page.predictions()) == 5, strokes
    page.await_best("cross")


def test_one_can_draw_with_the_keyboard(page: Visit) -> None:
    page.page.get_by_role("button", name="Draw one").click()
    for key in ("Space", *["ArrowRight"] * 8, "ArrowDown"):
        page.page.keyboard.press(key)
    page.heard("The pen is down")
    page.page.keyboard.press("Space")
    assert len(page.predictions()) == 5


def test_the_waterfall_shows_the_stages_of_the_header(page: Visit) -> None:
    response = page.asked("predict", lambda: page.sample("heart"))
    stages = stages_of(response.headers["server-timing"])
    page.predictions()
    rows = [row.split() for row in page.panel().get_by_role("row").all_inner_texts()]
    shown = {name: float(milliseconds) for name, milliseconds, _ in rows}
    shown.pop("elsewhere", None)
    assert list(shown) == [name for name in stages if name != "total"]
    for name, milliseconds in shown.items():
        # Three digits are written.
        assert milliseconds == pytest.approx(stages[name], rel=0.01, abs=0.01)


def test_the_chosen_model_and_version_are_asked(page: Visit) -> None:
    assert {"shapes", "colours", "tensors"} <= set(page.option_texts("Model"))
    page.page.get_by_label("Model", exact=True).select_option("colours")
    response = page.asked("predict", lambda: page.sample("heart"))
    assert "model=colours" in response.url
    page.panel().get_by_role("heading", name="colours, version 1").wait_for()
    response = page.asked("predict", lambda: page.page.get_by_label("Version").select_option("version 1"))
    assert "version=1" in response.url
    response = page.asked("predict", lambda: page.page.get_by_label("Show").select_option("best 3"))
    assert len(page.predictions()) == 3


def test_two_answers_stand_side_by_side(page: Visit) -> None:
    page.sample("star")
    page.page.get_by_label("Compare with").select_option("tensors, version 1")
    page.section("Answer").get_by_text("Both say star").wait_for()
    assert [page.predictions(number)[0][0] for number in range(2)] == ["star", "star"]
    page.panel(1).get_by_role("heading", name="tensors, version 1").wait_for()
    page.page.get_by_label("Compare with").select_option("colours, version 1")
    page.section("Answer").get_by_text("They disagree: star here").wait_for()


def test_several_pictures_fill_a_grid_as_their_answers_come(page: Visit, tmp_path: Path) -> None:
    corrupt = tmp_path / "corrupt.jpg"
    corrupt.write_bytes(HEART.read_bytes()[:5000])
    pictures = sorted(PICTURES.glob("*.jpg"))[:3]
    page.page.get_by_label("Model", exact=True).select_option("slow")
    tiles = page.section("Several pictures").get_by_role("button")
    page.choose(*pictures, corrupt)
    # One after another, SLOW_S each: when the first is there, the last cannot be.
    tiles.filter(has_text="%").first.wait_for()
    assert page.page.locator(".tile .verdict.hint").count() > 0, f"all came within {SLOW_S} s"
    page.heard("3 pictures answered, 1 refused")
    texts = tiles.all_inner_texts()
    assert [text.splitlines()[0] for text in texts] == [*(each.name for each in pictures), "corrupt.jpg"]
    assert all("%" in text for text in texts[:3])
    assert "corrupt" in texts[3].split("\n", 1)[1]
    page.page.get_by_label("Model", exact=True).select_option("shapes")
    tiles.first.click()
    assert page.predictions()[0][0] == "circle"


def test_the_strip_counts_what_the_service_does(page: Visit) -> None:
    strip = page.section("Live figures of the last minute")
    strip.wait_for()
    page.sample("heart")
    page.predictions()
    strip.get_by_text(re.compile(r"^[\d.]+ ms$")).wait_for()
    strip.get_by_text(re.compile(r"^p99 [\d.]+ ms$")).wait_for()
    strip.get_by_text("1 shapes", exact=True).wait_for()
    assert strip.get_by_role("list", name="Batches by their size").get_by_role("listitem").count() >= 1


def test_the_page_shows_what_the_model_looked_at(page: Visit) -> None:
    page.sample("star")
    page.predictions()
    # What makes heat maps is started by the first one, and a busy machine may take longer than a request.
    for _ in range(4):
        page.page.get_by_role("button", name="Show what it looked at").click()
        page.page.locator("#heat:visible, .panel .failure").first.wait_for(timeout=60_000)
        if page.page.locator("#heat").is_visible():
            break
    else:
        raise AssertionError(page.failure())
    page.heard(r"For “star”, shapes, version 1, looked mostly at")
    shades = "new Set(document.getElementById('heat').getContext('2d').getImageData(0, 0, 99, 99).data).size"
    assert page.page.evaluate(shades) > 20
    page.sample("heart")
    page.heard("says heart")
    assert not page.page.locator("#heat").is_visible()


def test_a_model_without_a_network_says_why_it_has_no_heat_map(page: Visit) -> None:
    page.page.get_by_label("Model", exact=True).select_option("colours")
    page.sample("star")
    page.page.get_by_role("button", name="Show what it looked at").click()
    assert "heat maps" in page.failure()


def test_what_is_no_picture_is_refused_in_words(page: Visit, tmp_path: Path) -> None:
    text = tmp_path / "letter.txt"
    text.write_text("Dear model, what am I?")
    page.choose(text)
    assert "not an image in one of JPEG" in page.failure()
    assert "this browser cannot show it" in page.section("Picture").inner_text()


def test_a_service_that_is_not_reached_is_told_in_words_and_asked_again(page: Visit) -> None:
    page.sample("heart")
    page.predictions()
    page.page.context.set_offline(True)
    page.page.get_by_label("Show").select_option("best 3")
    assert "cannot be reached" in page.failure()
    page.page.context.set_offline(False)
    page.page.get_by_label("Show").select_option("best 10")
    assert len(page.predictions()) == 10
