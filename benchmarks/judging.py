"""What became of an attacked run: compared with one that nothing has touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import attacked_run as attacked
import faults
from attacked_run import BESIDE, EVALUATE, TRAIN, Untouched, differing
from faults import AS_IT_SHOULD_BE

from dreambooth.study.finished.runs import find_runs

NOT_APPLICABLE = "not applicable"  # no fault happened, so nothing was tried
# what a case may end with, before a colon and more words; the first four are no defects
OUTCOMES = (AS_IT_SHOULD_BE, "refused", "at work", NOT_APPLICABLE, "traceback", "silent", "lost")
Case = tuple[str, Callable[[Path], str]]  # its name, and what tries it in an empty folder
# a log => what a run says where its earlier rows are gone, and what may differ then: without a
# curve, another step can be the best one, and so be what is exported, drawn and scored
CHOSEN = (
    "superseded/",
    "model/",
    "exports/",
    "evaluation/",
    "samples/final",
    "checkpoints/best",
    "run.json",
)
SAID = {
    "metrics.csv": ("The log begins at step", ("metrics.csv",)),
    "curve.csv": ("that are trained already", ("curve.csv", "metrics.csv", *CHOSEN)),
}


def is_defect(outcome: str) -> bool:
    """Tell whether something is wrong."""
    return outcome.partition(":")[0] not in OUTCOMES[:4]


def worded(ended: faults.Ended) -> str | None:
    """Say what is wrong with how a process ended; None where it is as a user should find it."""
    if ended.crashed:
        return f"traceback: {ended.printed[-2000:]}"
    if ended.printed.count(" is full") > 1:
        return f"traceback: said twice: {ended.printed[-2000:]}"
    return None


def refused(ended: faults.Ended) -> str | None:
    """Judge a process by its words; None where it went on to the end, without a traceback."""
    if ended.crashed or ended.code not in (0, 2):
        return f"traceback: {ended.code}: {ended.printed[-2000:]}"
    if ended.code == 0:
        return None
    lines = [line for line in ended.printed.splitlines() if line and line[0] != " "]
    words = lines[-1] if lines else "nothing was said"  # indented lines say more of it
    return "refused" if words.startswith("error: ") else f"traceback: {words}"


class Judge:
    """Compares what attacked runs leave with what untouched ones have."""

    def __init__(self, untouched: Untouched) -> None:
        self.untouched = untouched

    def finishes(self, folder: Path, settings: Sequence[str] = TRAIN) -> str:
        """Run the command again, and compare with the run that nothing has touched."""
        if len(find_runs(folder)) > 1:
            return "silent: a phantom run"
        again = faults.run("train.py", settings, folder)
        if again.crashed:
            return f"traceback: {again.printed[-2000:]}"
        if again.code:
            return f"lost: {again.printed[-2000:]}"
        left = [str(p.relative_to(folder)) for p in folder.rglob(".*.tmp-*")]
        if left:
            return f"silent: left {left[:3]}"
        return self.compared(folder, settings)

    def compared(
        self, folder: Path, settings: Sequence[str] = TRAIN, but: Sequence[str] = ()
    ) -> str:
        """Compare what a run has made with what the untouched run has.

        Args:
            but: starts of the names of files that may differ.
        """
        ours = attacked.made(folder, self.untouched.whole)
        differ = differing(ours, self.untouched.made(settings))
        differ = [name for name in differ if not name.startswith(tuple(but))]
        if differ or len(find_runs(folder / "run")) != 1:
            return f"silent: {differ[:5]} differ"
        return AS_IT_SHOULD_BE

    def trained(self, folder: Path, settings: Sequence[str], damaged: Path) -> str:
        """Train with a damaged thing: refused in one sentence, or as if nothing had been.

        Args:
            damaged: of a log, a run may say that its earlier rows are gone.
        """
        ended = faults.run("train.py", settings, folder)
        if outcome := refused(ended):
            return outcome
        sentence, but = SAID.get(damaged.name, ("", ()))
        lines = ended.printed.splitlines()
        if not any(damaged.name in line and sentence in line for line in lines if sentence):
            return self.compared(folder, settings)
        whole = self.untouched.folder(settings)
        for log in SAID:
            ours, theirs = (attacked.rows(place / "run" / log, "step") for place in (folder, whole))
            if not all(attacked.is_part(row, theirs.get(step, {})) for step, row in ours.items()):
                return f"silent: another row in {log}"
        return self.compared(folder, settings, but)

    def drawn(self, folder: Path) -> str:
        """Draw with a damaged run's model."""
        ended = faults.run("generate.py", attacked.GENERATE, folder)
        if outcome := refused(ended):
            return outcome
        return _alike(attacked.pictures(folder / "drawn/images"), self.untouched.drawn)

    def scored(self, folder: Path) -> str:
        """Score a damaged run: its tables are those of an untouched evaluation."""
        if outcome := refused(faults.run("evaluate.py", EVALUATE, folder)):
            return outcome
        return _alike(attacked.scores(folder), self.untouched.scored)

    def reported(self, folder: Path, damaged: Path) -> str:
        """Report on a damaged run with a whole one beside it, which must be shown as it is.

        The damaged one is shown as it was, or called unreadable. A file that is `damaged` may be
        missing in its row if it is gone, or if a line names it.
        """
        ended = faults.run("report.py", attacked.REPORT, folder)
        if outcome := refused(ended):
            return outcome if outcome != "refused" else f"lost: a whole table: {ended.printed}"
        rows, before = attacked.rows(folder / "runs.csv"), self.untouched.report
        if rows.keys() - before.keys():
            return f"silent: phantom runs {sorted(rows.keys() - before.keys())}"
        if rows.get(f"{BESIDE}/run") != before[f"{BESIDE}/run"]:
            return f"silent: another row of the whole run: {rows.get(f'{BESIDE}/run')}"
        ours = rows.get("run")
        if ours is None:
            is_gone = damaged.name == "run.json" and not (folder / damaged).exists()
            return AS_IT_SHOULD_BE if is_gone else "silent: a run is gone"
        if ours["state"] != "finished":  # it has a reason, and no numbers
            is_said = ours["state"] in ended.printed and ours["reason"]
            return AS_IT_SHOULD_BE if is_said else f"silent: {ours}"
        is_said = damaged.name in ended.printed or not (folder / damaged).exists()
        if ours == before["run"] or is_said and attacked.is_part(ours, before["run"]):
            return AS_IT_SHOULD_BE
        return f"silent: another row of the damaged run: {ours}"

    def shown(self, folder: Path, settings: Sequence[str]) -> str:
        """Report on a whole run that later settings were changing, with its copy beside it.

        No row may mix numbers of both, and the copy is shown in any case.
        """
        ended = faults.run("report.py", attacked.REPORT, folder)
        if outcome := refused(ended):
            return outcome if outcome != "refused" else f"lost: a whole table: {ended.printed}"
        rows = attacked.rows(folder / "runs.csv")
        reports = (self.untouched.report, self.untouched.report_of(settings))
        if rows.keys() - reports[0].keys() or f"{BESIDE}/run" not in rows:
            return f"silent: it shows {sorted(rows)}"
        for name, row in rows.items():
            if row["state"] != "finished":
                if name != "run":
                    return "silent: the whole run is not shown as one"
            elif not any(attacked.is_part(row, report[name]) for report in reports):
                return f"silent: a row of neither: {row}"
        return AS_IT_SHOULD_BE


def _alike(ours: attacked.Facts, theirs: attacked.Facts) -> str:
    differ = differing(ours, theirs)
    return f"silent: {differ[:5]} differ" if differ else AS_IT_SHOULD_BE
