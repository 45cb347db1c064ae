"""What `dry_run=true` prints: the runs, the trainings that they share, images, estimated costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dreambooth.cli.configuration.resolvers import without_folders
from dreambooth.cli.refusals.resources import free_bytes
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


def print_sweep(sweep: DictConfig, jobs: Sequence[PlannedJob]) -> None:
    """Print the plan of a sweep; nothing is run, and nothing written."""
    folder, configs = Path(sweep.hydra.sweep.dir), []
    unnamed = sweep.hydra.job.config.override_dirname.exclude_keys
    title = f"{_counted(len(jobs))}: {escape(str(folder))}"
    table = Table(title=title, title_justify="left")
    table.box, table.pad_edge = SIMPLE_HEAD, False
    for header in ("", "what varies", "folder", ""):
        table.add_column(header, overflow="fold")
    for number, job in enumerate(jobs):
        state, config = _state(job, folder)
        configs += [config] if config is not None else []
        own = what_varies(job.overrides, [each.overrides for each in jobs], unnamed)
        table.add_row(
            str(number), escape(without_folders(" ".join(own))), escape(job.folder), escape(state)
        )
    console = _console()
    console.print(table)
    earlier = [folder, folder.parent.parent, Path(sweep.hydra.run.dir).parent.parent]
    _print_work(console, configs, earlier)


def print_run(config: Plain) -> None:
    """Print the plan of a single run."""
    console, folder = _console(), Path(config["output_dir"])
    is_done = finished(folder, config) is not None
    console.print(
        f"1 run: {folder}{' (finished)' if is_done else ''}", markup=False, soft_wrap=True
    )
    _print_work(console, [] if is_done else [config], [folder.parent.parent])


def _state(job: PlannedJob, folder: Path) -> tuple[str, Plain | None]:
    """Return what is known of a job in words, and its configuration if it has to run."""
    try:
        job.check()
        config = job.resolved()
    except UserError as error:
        return f"will fail: {error}", None
    is_done = finished(folder / job.folder, config) is not None
    return ("finished", None) if is_done else ("", config)


def _print_work(console: Console, configs: Sequence[Plain], folders: Sequence[Path]) -> None:
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
        for name, text in _costs(costs, configs, work.steps == work.steps_alone):
            table.add_row(name, text)
    console.print(table, highlight=False)


def _costs(
    costs: Estimate, configs: Sequence[Plain], shares_nothing: bool
) -> list[tuple[str, str]]:
    """Word the estimates; they are of these sources, or unknown."""
    time = memory = disk = "unknown"
    if costs.seconds is not None:
        time = f"about {_duration(costs.seconds)}, one run after another"
    if costs.memory_gib is not None:
        memory = f"about {costs.memory_gib:,.1f} GiB while training"
    if costs.disk is not None:
        disk = f"about {readable_size(costs.disk.total)}"
        free = free_bytes(configs[0]["output_dir"])
        disk += f", of {free / GIB:.0f} GiB that are free"
        disk += ": not enough" if costs.disk.total > free else ""
        disk += f"\n{_parts(costs.disk, shares_nothing)}"
    source = f"estimated from {', and from '.join(costs.sources)}"
    return [("time", time), ("memory", memory), ("disk", disk), ("", source)]


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
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


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
