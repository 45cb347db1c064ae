"""What `dry_run=true` prints: the runs, the trainings that they share, images, estimated costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dreambooth.cli.configuration.resolvers import without_folders
from dreambooth.cli.refusals.rehearsal import is_elsewhere, rehearse
from dreambooth.cli.refusals.resources import ROOM, free_bytes
from dreambooth.cli.sweeps.planning import PlannedJob
from dreambooth.cli.sweeps.sweep_lines import what_varies
from dreambooth.errors import UserError
from dreambooth.files import readable_size
from dreambooth.study.costs.disk import Needs
from dreambooth.study.costs.estimates import Earlier, Estimate, estimate
from dreambooth.study.costs.plan import Work
from dreambooth.study.costs.sizes import GIB
from dreambooth.training.resuming.finished import finished

Plain = Mapping[str, Any]
MANY = 8  # refused runs that are listed


def print_sweep(sweep: DictConfig, jobs: Sequence[PlannedJob]) -> None:
    """Print the plan of a sweep; nothing is run, and nothing written.

    Raises:
        UserError: what some of its runs would refuse.
    """
    folder, configs = Path(sweep.hydra.sweep.dir), []
    unnamed = sweep.hydra.job.config.override_dirname.exclude_keys
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for header in ("", "what varies", "folder", ""):
        table.add_column(header, overflow="fold")
    elsewhere = any(is_elsewhere(job.config, sweep.hydra.launcher._target_) for job in jobs)
    refused: dict[str, str] = {}
    for number, job in enumerate(jobs):
        own = what_varies(job.overrides, [each.overrides for each in jobs], unnamed)
        name = without_folders(" ".join(own))
        state, config = _state(job, folder)
        if config is not None:
            configs.append(config)
            if (reason := job.refused(elsewhere)) is not None:
                refused[name or job.folder] = reason
        table.add_row(str(number), escape(name), escape(job.folder), state)
    if refused:
        raise UserError(_refusal(refused, len(jobs)))
    console = _console()
    console.print(f"{_counted(len(jobs))}: {folder}", markup=False, soft_wrap=True)
    console.print(table)
    earlier = [folder, folder.parent.parent, Path(sweep.hydra.run.dir).parent.parent]
    _print_work(console, configs, earlier, elsewhere)


def print_run(cfg: DictConfig) -> None:
    """Print the plan of a single run.

    Raises:
        UserError: what the run would refuse.
    """
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    console, folder = _console(), Path(config["output_dir"])
    is_done, elsewhere = finished(folder, config) is not None, is_elsewhere(cfg, "")
    if not is_done:
        rehearse(cfg, elsewhere)
    console.print(
        f"1 run: {folder}{' (finished)' if is_done else ''}", markup=False, soft_wrap=True
    )
    _print_work(console, [] if is_done else [config], [folder.parent.parent], elsewhere)


def _refusal(refused: Mapping[str, str], runs: int) -> str:
    """Word what runs of a sweep would refuse, by what sets each apart."""
    reasons = set(refused.values())
    if len(refused) == runs and len(reasons) == 1:
        return reasons.pop()
    lines = [f"  {name}: {reason}" for name, reason in list(refused.items())[:MANY]]
    lines += [f"  and {len(refused) - MANY} more"] * (len(refused) > MANY)
    return "\n".join([f"{len(refused)} of {_counted(runs)} would be refused:", *lines])


def _state(job: PlannedJob, folder: Path) -> tuple[str, Plain | None]:
    """Return what is known of a job in words, and its configuration if it has to run."""
    try:
        config = job.resolved()
    except (OmegaConfBaseException, UserError):
        return "", {}  # the job says why
    is_done = finished(folder / job.folder, config) is not None
    return ("finished", None) if is_done else ("", config)


def _print_work(
    console: Console, configs: Sequence[Plain], folders: Sequence[Path], elsewhere: bool
) -> None:
    work = Work.of(configs)
    costs = estimate(work, Earlier(folders, _device(configs))) if configs else None
    class_images = sum(count for _, count in work.class_images)
    table = Table.grid(padding=(0, 2))
    table.add_row(
        "trainings",
        f"{work.last_phases} for {_counted(len(configs))}: {work.steps} optimizer steps after "
        f"sharing, {work.steps_alone} before",
    )
    table.add_row(
        "images",
        f"{class_images} class images (fewer if the cache has them), {work.samples} samples, "
        f"{work.scored} to score",
    )
    if costs is not None:
        for name, text in _costs(costs, work, elsewhere):
            table.add_row(name, text)
    console.print(table, highlight=False)


def _costs(costs: Estimate, work: Work, elsewhere: bool) -> list[tuple[str, str]]:
    """Word the estimates; they are of these sources, or unknown."""
    time = memory = disk = "unknown"
    if costs.seconds is not None:
        time = f"about {_duration(costs.seconds)}, one run after another"
    if costs.memory_gib is not None:
        memory = f"about {costs.memory_gib:,.1f} GiB while training"
        memory += "" if elsewhere else _of_there(costs.memory_gib, work.configs)
    if costs.disk is not None:
        disk = f"about {readable_size(costs.disk.total)}"
        free = free_bytes(work.configs[0]["output_dir"])
        disk += f", of {free / GIB:.0f} GiB that are free"
        disk += ": not enough" if costs.disk.total > free else ""
        disk += f"\n{_parts(costs.disk, work.steps == work.steps_alone)}"
    lines = [("time", time), ("memory", memory), ("disk", disk)]
    known = any(each is not None for each in (costs.seconds, costs.memory_gib, costs.disk))
    source = f"estimated from {', and from '.join(costs.sources)}"
    lines.append(("", source if known else "the model is not here, and none that is known by name"))
    if costs.guess:
        lines.append(("", f"the time is {costs.guess}"))
        lines.append(("", "without loading, the autoencoder, scoring and exporting"))
    if elsewhere:
        lines.append(
            ("", "these runs are for another machine, whose devices and memory are not known here")
        )
    return lines


def _of_there(need: float, configs: Sequence[Plain]) -> str:
    """Say how much memory there is, and whether runs would be refused."""
    from dreambooth.training.logs.memory import memory_gib  # torch

    there = memory_gib("cpu" if _device(configs) == "cpu" else "cuda")
    return f", of {there:.1f}{': not enough' if need > ROOM * there else ''}"


def _parts(disk: Needs, shares_nothing: bool) -> str:
    """Word what is left on the disk, what goes again, and what could be spared."""
    parts = {name: size for name, size in disk.left.items() if size}
    text = f"left: {', '.join(f'{name} {readable_size(size)}' for name, size in parts.items())}"
    if disk.while_training:
        text += f"; beside it while training: {readable_size(disk.while_training)}"
    if shares_nothing and "shared trainings" in parts:
        text += "\nreuse=off leaves no shared trainings, which save no step of these runs"
    return text


def _counted(runs: int) -> str:
    return f"{runs} run{'' if runs == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 72 else f"{hours / 24:,.0f} days"


def _device(configs: Sequence[Plain]) -> str:
    """Name the device of these runs, as run.json does."""
    if all(config["trainer"]["accelerator"] == "cpu" for config in configs):
        return "cpu"
    from dreambooth.training.logs.memory import device_name  # torch

    return device_name("auto")


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a pipe or a log has no edge to wrap at
    return console
