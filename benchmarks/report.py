"""Measure a study's page against its number of runs: seconds to write, bytes, seconds to open.

    python benchmarks/report.py [--run outputs/demo] [--runs 12,72,300,1000] [--out sizes.json]

The studies are copies of one finished run's record, scores, losses and pictures under other names,
settings and subjects; every copy's pictures differ in a pixel, so that none is held for another.
Opening is measured by Chromium through Playwright: from the request to the end of the page's
scripts, with every picture that is seen.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from dreambooth.files import bytes_of, write_json
from dreambooth.study.answers.answer_rows import build_answer
from dreambooth.study.finished.scored_runs import read_runs
from dreambooth.study.page.write import write_study_page

SUBJECTS = 30  # of the study; the other copies are other learning rates, with PPL and without
COPIED = ("metrics.csv", "curve.csv", "evaluation/*/metrics.json", "samples/final/*")
READY = "() => performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--runs", default="12,72,300,1000")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = []
    for count in map(int, options.runs.split(",")):
        with TemporaryDirectory() as folder:
            lines.append({"runs": count, **measure(options.run, Path(folder), count)})
        print("  ".join(f"{name} {value}" for name, value in lines[-1].items()))
    if options.out:
        write_json(options.out, lines)


def measure(run: Path, folder: Path, count: int) -> dict[str, Any]:
    """Write and open the page of `count` copies of a run."""
    for number in range(count):
        copy(run, folder / f"{number:04d}", number)
    runs = read_runs(folder)
    start = time.perf_counter()
    answer = build_answer(runs)
    answered = time.perf_counter()
    page = write_study_page(folder, runs, answer)
    written = time.perf_counter()
    return {
        "answer_s": round(answered - start, 2),
        "write_s": round(written - answered, 2),
        "page_mb": round(page.stat().st_size / 1e6, 2),
        "beside_mb": round(bytes_of([folder / "report_pictures"]) / 1e6, 2),
        "open_s": opened(page),
    }


def copy(run: Path, folder: Path, number: int) -> None:
    """Copy what a page reads of a run, as another subject's run under another setting."""
    record = json.loads((run / "run.json").read_text())
    setting = number // SUBJECTS
    changed = {"ppl": bool(setting % 2), "lr": 1e-5 * (1 + setting // 2)}
    for part in (record["config"], record["written"]):
        part |= changed
        part["subject"] = {**part["subject"], "name": f"subject{number % SUBJECTS:02d}"}
    for pattern in COPIED:
        for source in run.glob(pattern):
            target = folder / source.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".png":
                with Image.open(source) as image:
                    image.putpixel((0, 0), (number % 256, number // 256, 0))
                    image.save(target)
            else:
                shutil.copy(source, target)
    write_json(folder / "run.json", record)


def opened(page: Path) -> float | None:
    """Open a page in Chromium; return seconds, or None without a browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        tab.goto(page.absolute().as_uri())
        seconds = tab.evaluate(READY)
        browser.close()
    return round(seconds, 2)


if __name__ == "__main__":
    main()
