"""Attack the program: kills, full disks, races, damaged files, wrong values, odd photos.

    python benchmarks/campaign.py [--seconds 600] [--only race,signal] [--work DIR] [--out FILE]
                                  [--shard 1/2]

Each case is a fault in a run of the embedded model, and what became of it. Cases are drawn in one
fixed order; what is done is kept in `DIR/cases.jsonl`, and a later call goes on after it, for so
many seconds. `--shard I/N` tries every N-th case from the I-th and keeps it in a file of its own:
N processes can share a `DIR`, and the page is of all of them. A `DIR` in memory (`/dev/shm`) is the
quickest. A page that is there keeps what stands below its first heading `##`. The table counts
cases by outcome: a *traceback* is an error without words, *silent* is another result without a
word, *lost* is a run that the same command cannot finish.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import commands
import faults

from dreambooth.cli import startup

with startup.postponed_imports():
    from dreambooth.cli import main as cli

    faults.import_rooms("cli.commands", "cli.drawing.generate", "cli.scoring.evaluate")
    faults.import_rooms("study.tables", "training.job", "evaluation.curve_plot")
    from attacked_run import Untouched
    from attacks import Attacks
    from judging import NOT_APPLICABLE, OUTCOMES, Case, is_defect

OUT = faults.ROOT / "docs/results/reliability.md"
EXPLAINED = """\
Each case is a fault in a run of the embedded model on a CPU (2 steps, class images, samples, a
curve, two exports and a score; {boundaries} write boundaries). *As it should be*: the same command
then gave the same weights, exports, pictures, scores, curve, log and record, but for times.
*Refused*: one sentence, exit code 2. *At work*: an accepted value that asks for more than a
minute. *Not applicable*: no fault happened (a boundary that this run does not reach, a bit of an
empty file), so the case does not count as tried. *Traceback*, *silent* (another result without a
word) and *lost* (the command cannot finish the run) are defects. *Of*: the cases that there are;
another call with the same `--work` goes on with those that were not tried.
"""


class Campaign:
    """The order of the cases, and those that have been tried."""

    def __init__(self, work: Path, shard: str = "1/1") -> None:
        own, _, count = shard.partition("/")
        self.work, self.first, self.shards = work, int(own) - 1, int(count)
        name = "cases" if self.shards == 1 else f"cases-{own}-of-{count}"
        self.log, self.own = work / f"{name}.jsonl", work / f"case-{own}-of-{count}"
        self.untouched = Untouched(work)
        self.kinds = Attacks(self.untouched).kinds
        self.commit = faults.commit()

    def cases(self) -> Iterator[tuple[str, Case]]:
        """Yield all cases with their kinds, in one fixed order, of every kind in turn."""
        draw = random.Random(0)
        kinds = {kind: list(cases()) for kind, cases in self.kinds.items()}
        for cases in kinds.values():
            draw.shuffle(cases)
        while any(kinds.values()):
            for kind, cases in kinds.items():
                if cases:
                    yield kind, cases.pop()

    def go_on(self, seconds: float, only: set[str]) -> None:
        """Try the next cases for so many seconds."""
        done, end = {case["name"] for case in self.done()}, time.monotonic() + seconds
        for number, (kind, (name, attempt)) in enumerate(self.cases()):
            if number % self.shards != self.first or name in done or only and kind not in only:
                continue
            if time.monotonic() > end:
                return
            shutil.rmtree(self.own, ignore_errors=True)
            self.own.mkdir()
            outcome = attempt(self.own)
            case = {"kind": kind, "name": name, "outcome": outcome, "commit": self.commit}
            with open(self.log, "a") as file:
                file.write(json.dumps(case) + "\n")
            if is_defect(outcome):
                print(f"{name}: {outcome}", flush=True)

    def done(self) -> list[dict[str, str]]:
        """Read the cases that all shards have tried."""
        logs = sorted(self.work.glob("cases*.jsonl"))
        return [json.loads(line) for log in logs for line in log.open()]


# -- the table --------------------------------------------------------------------------------


def page(campaign: Campaign, arguments: list[str]) -> str:
    """Write the results as Markdown."""
    done = campaign.done()
    counts = Counter((case["kind"], case["outcome"].partition(":")[0]) for case in done)
    lines = ["# Reliability: what was attacked, and what became of it", ""]
    lines += ["```", " ".join(["python benchmarks/campaign.py", *arguments]), "```", ""]
    lines += [
        EXPLAINED.format(boundaries=campaign.untouched.boundaries()),
        "| fault | tried | of | " + " | ".join(OUTCOMES) + " | commits |",
        "|---|" + "---|" * (len(OUTCOMES) + 3),
    ]
    for kind, cases in campaign.kinds.items():
        numbers = [counts[kind, outcome] for outcome in OUTCOMES]
        commits = sorted({case["commit"] for case in done if case["kind"] == kind})
        tried = sum(numbers) - counts[kind, NOT_APPLICABLE]
        row = [kind, tried, len(list(cases())), *numbers, ", ".join(commits)]
        lines.append(f"| {' | '.join(map(str, row))} |")
    notes = [case for case in done if case["outcome"].startswith(f"{faults.AS_IT_SHOULD_BE}: ")]
    lines += ["", *(f"- {c['name']}: {c['outcome'].partition(': ')[2]}" for c in notes)]
    bad = [case for case in done if is_defect(case["outcome"])]
    if bad:
        lines += ["", "Defects:", ""]
        lines += [f"- {c['name']}: {' '.join(c['outcome'].split())[-300:]}" for c in bad]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--only", default="", help="kinds of faults, with commas")
    parser.add_argument("--work", type=Path, default=Path("campaign"))
    parser.add_argument("--shard", default="1/1", help="which of how many processes this is")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    cli.prepare_environment()
    campaign = Campaign(chosen.work.absolute(), chosen.shard)
    campaign.go_on(chosen.seconds, {kind for kind in chosen.only.split(",") if kind})
    text = page(campaign, sys.argv[1:])
    print(text)
    commands.write_page(chosen.out, text)


if __name__ == "__main__":
    main()
