"""The page in a real browser: what a visitor does, and what the page then shows."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lib import samples
from tests.test_demo import encoded, served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium here"),
]

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 800}
FLAGS = [
    f"--{flag}"
    for flag in (
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "use-fake-ui-for-media-stream",
        "use-fake-device-for-media-stream",
    )
]
PATIENCE_MS = 30_000


@pytest.fixture(scope="session")
def hands(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve drawn hands as files, three of each class."""
    folder = tmp_path_factory.mktemp("hands")
    paths = [folder / f"{n_fingers}-{seed}.png" for n_fingers in range(4) for seed in range(3)]
    for path in paths:
        n_fingers, seed = map(int, path.stem.split("-"))
        path.write_bytes(encoded(n_fingers, seed))
    return paths


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of a drawn hand, as motion JPEG, for Chromium's fake camera."""
    frames = []
    for seed in (3, 8, 3, 8):
        file = io.BytesIO()
        frame = Image.new("RGB", (640, 480), (128, 128, 128))
        frame.paste(Image.fromarray(samples.draw(3, seed, 480).image), (80, 0))
        frame.save(file, "JPEG", quality=90)
        frames += [file.getvalue()] * 10
    path = tmp_path_factory.mktemp("video") / "hand.mjpeg"
    path.write_bytes(b"".join(frames))
    return path


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corrections")


@pytest.fixture(scope="session")
def url(kept: Path) -> Iterator[str]:
    with served("--feedback", str(kept)) as (address, _, _):
        yield address


@pytest.fixture(scope="session")
def browser(video: Path) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = [*FLAGS, f"--use-file-for-fake-video-capture={video}"]
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(params=["phone", "desk"])
def visit(request: pytest.FixtureRequest, browser: Any, url: str) -> Iterator[Any]:
    """The page as it is after it was opened, on a phone and on a desk."""
    size = PHONE if request.param == "phone" else DESK
    scheme = "dark" if request.param == "phone" else "light"
    context = browser.new_context(
        viewport=size, color_scheme=scheme, permissions=["camera"], accept_downloads=True
    )
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE_MS)
    tab.problems = []
    tab.on("pageerror", lambda error: tab.problems.append(str(error)))
    tab.on("console", lambda m: tab.problems.append(m.text) if m.type == "error" else None)
    tab.on("dialog", lambda dialog: tab.problems.append(dialog.message))
    tab.goto(url)
    tab.wait_for_selector("#photo input[type=file]", state="attached")
    tab.wait_for_selector("#examples img")
    yield tab
    assert tab.problems == []
    context.close()


def words(visit: Any, selector: str) -> str:
    return re.sub(r"\s+", " ", visit.inner_text(selector))


def test_an_uploaded_picture_is_answered_by_both_models_and_why(
    visit: Any, hands: list[Path]
) -> None:
    visit.set_input_files("#photo input[type=file]", hands[-1])
    visit.wait_for_selector("#answers .answer")
    said = words(visit, "#answers")
    assert "cnn" in said
    assert "mobilenet" in said
    assert re.search(r"\d ms", said)
    assert re.search(r"Both models say \d|No model is sure|They disagree|is not sure", said)
    assert visit.locator("#answers figure").count() == 0
    visit.get_by_label("Show why").check()
    visit.wait_for_selector("#answers figure img")
    assert visit.locator("#answers figure img").count() == 2
    width, wanted = visit.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= wanted


def test_an_example_is_one_click_away(visit: Any) -> None:
    visit.locator("#examples button").nth(5).click()
    visit.wait_for_selector("#answers .answer")
    assert "Not sure" in words(visit, "#answers")


def test_a_file_that_is_no_picture_is_told_so(visit: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_bytes(b"no picture")
    visit.set_input_files("#photo input[type=file]", tmp_path / "notes.png")
    visit.wait_for_selector("#answers .failed")
    assert "none of JPEG, PNG" in words(visit, "#answers")


def test_the_live_camera_is_answered_frame_by_frame(visit: Any) -> None:
    visit.get_by_role("tab", name="Live camera").click()
    visit.locator("#live").get_by_role("button").first.click()
    visit.wait_for_timeout(1500)
    visit.locator("#live .button-wrap button").first.click()
    visit.wait_for_selector("#answers .answer")
    said = set()
    for _ in range(40):
        said.add(words(visit, "#answers"))
        if len(said) >= 3:
            break
        visit.wait_for_timeout(250)
    assert len(said) >= 3


def test_many_pictures_are_sorted_filtered_and_taken_home(
    visit: Any, hands: list[Path], tmp_path: Path
) -> None:
    archive, broken = tmp_path / "more.zip", tmp_path / "broken <b>x.png"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(hands[0], "in/zero.png")
        file.writestr("../../evil.png", hands[1].read_bytes())
    broken.write_bytes(b"broken")
    visit.get_by_role("tab", name="Many").click()
    visit.set_input_files("#files input[type=file]", [*hands, archive, broken])
    visit.wait_for_selector("#files table, #files .file-preview")
    visit.click("#start")
    visit.wait_for_selector("#many-status strong")
    assert "13 classified" in words(visit, "#many-status")
    assert "2 unreadable" in words(visit, "#many-status")
    assert "leads out of the archive" in words(visit, "#unreadable")
    assert "more.zip/in/zero.png" in words(visit, "#table")
    visit.wait_for_selector("#album img")
    assert visit.locator("#album img").count() == 13
    label = visit.locator("#filter label").last
    wanted = int(re.search(r"\((\d+)\)", label.inner_text())[1])
    label.click()
    visit.wait_for_function(f"document.querySelectorAll('#album img').length == {wanted}")
    with visit.expect_download() as download:
        visit.click("#get-predictions-jsonl")
    rows = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    assert [row["uri"] for row in rows] == [*(path.name for path in hands), "more.zip/in/zero.png"]


def test_many_can_be_cancelled(visit: Any, tmp_path: Path) -> None:
    archive, picture = tmp_path / "lots.zip", encoded(kind="JPEG", quality=60)
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(900):
            file.writestr(f"{number}.jpg", picture)
    visit.get_by_role("tab", name="Many").click()
    visit.set_input_files("#files input[type=file]", archive)
    visit.wait_for_selector("#files table, #files .file-preview")
    visit.click("#start")
    visit.wait_for_function(
        "/[1-9]\\d* of 900/.test(document.querySelector('#many-status').innerText)"
    )
    visit.click("#stop")
    visit.wait_for_function(
        "document.querySelector('#many-status').innerText.trim() == 'Cancelled.'"
    )
    visit.wait_for_timeout(1500)
    assert words(visit, "#many-status") == "Cancelled."
    assert not visit.is_visible("#many-result")
    visit.click("#start")
    visit.wait_for_function(
        "/[1-9]\\d* of 900/.test(document.querySelector('#many-status').innerText)"
    )
    visit.click("#stop")
    visit.wait_for_selector("#many-status :text('Cancelled')")


def test_a_correction_is_stored(visit: Any, hands: list[Path], kept: Path) -> None:
    before = len(list(kept.rglob("*.png")))
    visit.set_input_files("#photo input[type=file]", hands[0])
    visit.wait_for_selector("#answers .answer")
    assert "you agree that this picture is kept" in words(visit, "#correct")
    visit.click("#right-class input")
    visit.locator("ul[role=listbox] li").nth(2).click()
    visit.click("#send-correction")
    visit.wait_for_selector("#correct :text('Thank you')")
    stored = list(kept.rglob("*.png"))
    assert len(stored) == before + 1
    assert stored[-1].parent.parent.parent == kept


def test_the_models_tell_how_good_they_are(visit: Any) -> None:
    visit.get_by_role("tab", name="Models").click()
    visit.wait_for_selector("#sheets .sheet")
    said = words(visit, "#sheets")
    assert said.count("right on sessions it never saw") == 2
    assert visit.locator("#sheets table.confusion").count() == 2
    visit.locator("#sheets table.confusion button").first.click()
    visit.wait_for_selector("#cell-said:has-text('images')")
    width, wanted = visit.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= wanted


def test_html_in_a_file_name_stays_text(visit: Any, tmp_path: Path) -> None:
    evil = tmp_path / "<img src=x onerror=alert(1)>${alert(3)}{{value}}.png"
    evil.write_bytes(encoded())
    broken = tmp_path / "<img src=x onerror=alert(2)>.jpg"
    broken.write_bytes(b"broken")
    visit.set_input_files("#photo input[type=file]", evil)
    visit.wait_for_selector("#answers .answer")
    visit.get_by_role("tab", name="Many").click()
    visit.set_input_files("#files input[type=file]", [evil, broken])
    visit.wait_for_selector("#files table, #files .file-preview")
    visit.click("#start")
    visit.wait_for_selector("#many-status strong")
    visit.wait_for_timeout(500)
    assert visit.locator("img[src=x]").count() == 0


def test_the_keyboard_is_enough(visit: Any) -> None:
    reached = set()
    for _ in range(40):
        visit.keyboard.press("Tab")
        reached.add(
            visit.evaluate(
                "(e => e.getAttribute('aria-label') || e.innerText || (e.labels && e.labels[0]"
                " && e.labels[0].innerText) || e.tagName)(document.activeElement)"
            ).strip()
        )
    for wanted in ("Classify", "Picture", "Live camera", "Show why"):
        assert any(wanted in name for name in reached), (wanted, reached)
    visit.get_by_role("tab", name="Many").focus()
    visit.keyboard.press("Enter")
    visit.wait_for_selector("#start")


def test_everything_that_can_be_pressed_has_a_name(visit: Any, hands: list[Path]) -> None:
    visit.set_input_files("#photo input[type=file]", hands[0])
    visit.wait_for_selector("#answers .answer")
    nameless = visit.evaluate(
        """[...document.querySelectorAll('button, input:not([type=file]), select, textarea')]
        .filter(e => e.offsetParent !== null)
        .filter(e => !(e.innerText || e.getAttribute('aria-label') || e.title ||
                       (e.labels && e.labels.length) || e.getAttribute('aria-labelledby') ||
                       (e.querySelector('img') && e.querySelector('img').alt)))
        .map(e => e.outerHTML.slice(0, 160))"""
    )
    assert nameless == []
