"""The pages in a real browser: what a reader sees and does, and nothing that leaves the page."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dreambooth.files import write_csv
from dreambooth.study.answers.answer_rows import build_answer
from dreambooth.study.finished.scored_runs import read_runs
from dreambooth.study.finished.sweeps import Unfinished
from dreambooth.study.page import write
from page_records import DINO, picture, write_study
from run_records import write_run

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytestmark = pytest.mark.slow
PROMPT = 'a sks dog, "<script>hacked = true</script>" & مرحبا 🐕'
ROWS = "#runs-table tbody tr:not([hidden])"


@pytest.fixture(scope="module")
def browser():
    """Chromium of the system, or Playwright's own."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with playwright.sync_playwright() as driver:
        if path is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("no Chromium: `python -m playwright install chromium` brings one")
        browser = driver.chromium.launch(
            executable_path=path, args=["--no-sandbox"] if as_root else []
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study with its pages."""
    folder = write_study(tmp_path_factory.mktemp("study"))
    for run in ("dog-True", "cat-False"):
        write.write_run_page(folder / run)
    runs = read_runs(folder)
    write.write_study_page(folder, runs, build_answer(runs))
    return folder


@pytest.fixture
def visit(browser):
    """Open a page; at the end, nothing was requested from elsewhere and nothing failed."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    faults: list[str] = []
    context.on("console", lambda message: faults.append(message.text))
    context.on("weberror", lambda error: faults.append(str(error.error)))
    context.on("requestfailed", lambda request: faults.append(request.url[:200]))

    def leaves(request) -> None:
        if not request.url.startswith(("data:", "file:")):
            faults.append(request.url)

    context.on("request", leaves)

    def opened(path: Path, width: int = 1440):
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(path.as_uri())
        return page

    yield opened
    context.close()
    assert not faults


def loaded(page, selector: str) -> bool:
    """Whether there are pictures and all of them show something."""
    return page.evaluate(
        "s => { const all = [...document.querySelectorAll(s)];"
        "return all.length > 0 && all.every(i => i.complete && i.naturalWidth > 0) }",
        selector,
    )


def test_the_study_is_shown_with_its_question_and_published_numbers(folder, visit):
    page = visit(folder / "report.html")
    assert page.inner_text("h1") == "Prior preservation </script> on and off"
    assert page.inner_text(".question") == "Does it <b>help</b>?"
    cards = page.inner_text(".cards")
    assert "−0.200" in cards and "published −0.100" in cards
    assert "too few subjects to tell" in cards and "agrees" not in cards
    assert page.locator("#charts svg[tabindex]").count() == 6  # trade-off, 2 pairs, 2 losses, curve
    assert loaded(page, "#compare img") and loaded(page, "#photos img")
    assert page.locator("#photos .missing").count() == 1  # the cat's
    assert "python train.py" not in page.inner_text("#repeat .note")
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("#compare img").last.get_attribute("alt") == PROMPT


def test_runs_are_sorted_and_filtered(folder, visit):
    page = visit(folder / "report.html")
    scores = f'th[data-key="{DINO}"] button'

    def column() -> list[str]:
        return page.locator(f"{ROWS} td:nth-child(4)").all_inner_texts()

    page.click(scores)
    assert column() == ["0.500", "0.600", "0.700", "0.800", "–"]
    page.click(scores)
    assert column() == ["0.800", "0.700", "0.600", "0.500", "–"]
    page.select_option("select[data-key='subject.name']", "dog")
    assert page.locator(ROWS).count() == 2 and page.inner_text("#filter-count") == "2 of 5 runs"
    page.fill("#filter-text", "without")
    assert page.locator(ROWS).count() == 1


def test_runs_are_compared_and_the_slider_moves_through_the_steps(folder, visit):
    page = visit(folder / "report.html")
    page.select_option("#compare-subject", "dog")
    assert page.locator("#compare .head").count() == 2
    assert page.inner_text("#compare-label") == "final"
    before = page.locator("#compare .pic img").first.get_attribute("src")
    page.focus("#compare-step")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#compare-label") == "40"
    assert page.locator("#compare .pic img").first.get_attribute("src") != before
    page.check('#runs-table input[aria-label="Compare vase, with PPL"]')
    assert page.locator("#compare .head").count() == 3
    page.locator("#compare .pic").last.click()
    assert page.locator("dialog[open] img").count() == 3 and loaded(page, "dialog img")
    assert "<script>" in page.inner_text("dialog p")
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    page.click('#compare button[aria-label="Remove vase, with PPL"]')
    assert page.locator("#compare .head").count() == 2


def test_a_charts_values_are_read_by_keyboard_and_a_point_chooses_its_run(folder, visit):
    page = visit(folder / "report.html")
    chart = page.locator("#tradeoff svg").first
    chart.focus()
    page.keyboard.press("ArrowRight")
    assert "DINO" in page.inner_text("#tradeoff .tip")
    top = "s => document.querySelector(`#tradeoff ${s}`).getBoundingClientRect().y"
    assert -60 < page.evaluate(f"({top})('.tip') - ({top})('svg')") < 360  # over the chart
    heads = page.locator("#compare .head").count()
    page.keyboard.press("Enter")
    assert page.locator("#compare .head").count() in (heads - 1, heads + 1)


def test_a_map_has_the_means_over_subjects_and_follows_the_filters(tmp_path, visit):
    for steps, score in ((100, 0.2), (200, 0.4)):
        for lr in (1e-5, 1e-4):
            for subject, more in (("dog", 0.0), ("cat", 0.1)):
                name = f"{lr}-{steps}-{subject}"
                write_run(tmp_path, name, score + more, subject, lr=lr, max_steps=steps)
    runs = read_runs(tmp_path)
    page = visit(write.write_study_page(tmp_path, runs, build_answer(runs)))
    cells = page.locator("#map td")
    assert cells.all_inner_texts() == ["0.250", "0.450", "0.250", "0.450"]
    page.select_option("select[data-key='subject.name']", "dog")
    assert cells.all_inner_texts() == ["0.200", "0.400", "0.200", "0.400"]


def test_a_grid_has_its_best_runs_and_colours_that_stand_for_one_thing(tmp_path, visit):
    for ppl in (False, True):
        for lr in (1e-5, 1e-4):
            for steps in (100, 200, 300):
                score = steps / 1000 + 0.5 * ppl + lr
                write_run(tmp_path, f"{ppl}-{lr}-{steps}", score, ppl=ppl, lr=lr, max_steps=steps)
    runs = read_runs(tmp_path)
    page = visit(write.write_study_page(tmp_path, runs, build_answer(runs)))
    assert page.locator(".best-runs .card").count() == 1
    assert "ppl=True, lr=0.0001, max_steps=300" in page.inner_text(".best-runs .card")
    legend = page.locator("#legend li")
    assert legend.all_inner_texts() == ["ppl no", "ppl yes", "lr 1e-05", "lr 0.0001"]
    page.select_option("#colour-by", label="max_steps")
    assert legend.all_inner_texts()[:3] == ["max_steps 100", "max_steps 200", "max_steps 300"]
    assert page.locator("#compare .head").count() == 4  # of both values of ppl and lr
    corner = page.inner_text("#compare .corner").replace("\u200b", "")  # where it may break
    assert "all: max_steps=200" in corner
    assert "+0.500" in page.inner_text("#answer table")  # what ppl changes


def test_long_and_equal_prompts_and_failed_runs_are_shown_whole(tmp_path, visit):
    folder = write_study(tmp_path, ("dog",))
    samples = folder / "dog-True/samples/final"
    long = "a sks dog, " + "very detailed, " * 20 + "word" * 30
    names = ["a sks dog", "a sks dog", long]
    files = [picture(samples / f"odd{i}.png", (i, 0, 0)).name for i in range(3)]
    rows = [{"file": f, "prompt": p, "seed": 0} for f, p in zip(files, names, strict=True)]
    write_csv(samples / "manifest.csv", rows)
    runs = read_runs(folder)
    lost = Unfinished("subject=cat", "failed", "<b>a.jpg</b> cannot be read.")
    page = visit(write.write_study_page(folder, runs, build_answer(runs, [lost])), width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert "<b>a.jpg</b> cannot be read." in page.inner_text("#answer")
    assert page.get_by_alt_text(long).count() >= 1
    one = visit(write.write_run_page(folder / "dog-True"), width=390)
    assert one.get_by_alt_text("a sks dog", exact=True).count() == 2
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("nav").is_hidden() and page.locator("#answer table").is_visible()


@pytest.mark.parametrize("name", ["report.html", "dog-True/run.html", "cat-False/run.html"])
def test_pages_fit_a_phone(folder, visit, name):
    page = visit(folder / name, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_runs_page_has_its_steps_scores_and_what_is_missing(folder, visit):
    page = visit(folder / "dog-True/run.html")
    assert page.inner_text("#step-label") == "final" and loaded(page, "#samples img")
    page.focus("#step")
    page.keyboard.press("Home")
    assert page.inner_text("#step-label") == "20"
    assert "python train.py subject=dog ppl=True" in page.inner_text("#repeat")
    assert "abc123" in page.inner_text(".versions")
    broken = visit(folder / "cat-False/run.html")
    notes = " ".join(broken.locator(".note").all_inner_texts())
    for words in ("not scored", "no sample pictures", "no losses", "no scored pictures"):
        assert words in notes


def test_pictures_of_a_large_study_lie_beside_the_page(folder, visit, monkeypatch):
    monkeypatch.setattr(write, "INLINE_RUNS", 1)
    runs = read_runs(folder)
    write.write_study_page(folder, runs, build_answer(runs))
    page = visit(folder / "report.html")
    page.locator("#compare img").last.scroll_into_view_if_needed()
    assert page.locator("#compare .pic img").first.get_attribute("loading") == "lazy"
    page.wait_for_function("[...document.images].some(i => i.complete && i.naturalWidth > 0)")
    assert "report_pictures/" in page.locator("#compare .pic img").first.get_attribute("src")
