"""The pictures of a grid: every combination of its axes, checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreambooth.cli.configuration.configs import CONF, files_of
from dreambooth.cli.drawing.axes import PLACES, Axis, label, parse_axes
from dreambooth.cli.drawing.sources import (
    NO_SUBJECT,
    additions_of,
    recorded_method,
    source_of,
    weights_of,
)
from dreambooth.cli.refusals.suggest import no_choice
from dreambooth.data.prompts import SubjectWords, fill
from dreambooth.errors import UserError
from dreambooth.packages import need
from dreambooth.sampling.spec import Sampling
from dreambooth.study.finished.base_model import PlainModel, PlainWeights
from dreambooth.study.finished.run_weights import RunWeights
from dreambooth.study.finished.runs import Run

OVERRIDES = ("num_inference_steps", "guidance_scale", "batch_size")


@dataclass(frozen=True, eq=False)
class Cell:
    """One picture of a grid: whose weights draw it, how, and what; `run` None is a base model."""

    run: Path | None
    step: int | None
    adapter_weight: float
    sampling: Sampling
    prompt: str
    class_only: str
    seed: int


def sampling_of(cfg: DictConfig, run: Run | PlainModel) -> Sampling:
    """Return a run's or a base model's sampler and settings, but for what the command sets.

    Raises:
        UserError: a sampler that cannot be made.
    """
    changed = {name: cfg[name] for name in OVERRIDES if cfg[name] is not None}
    if "scheduler" in cfg:
        options = OmegaConf.to_container(cfg.scheduler.options, resolve=True)
        changed |= {"scheduler": cfg.scheduler.name, "options": options}
    return _checked(run.sampling, changed)


def _checked(own: Sampling, changed: dict[str, Any]) -> Sampling:
    """Change a sampling, which stays one for the same kind of model.

    Raises:
        UserError: a sampler that cannot be made, or is for another kind of model.
    """
    sampling = replace(own, **changed)
    sampling.require_family(own.is_flow)
    sampling.check()
    return sampling


def templates_of(cfg: DictConfig) -> list[str]:
    """Return the prompts of a command: those of `prompts_file`, one a line, or `prompts`.

    Raises:
        UserError: a file that cannot be read or holds no prompt.
    """
    if cfg.prompts_file is None:
        return list(cfg.prompts)
    try:
        text = Path(cfg.prompts_file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"prompts_file={cfg.prompts_file} cannot be read ({error}): give a UTF-8 text file "
            "with a prompt in each line."
        ) from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"prompts_file={cfg.prompts_file} holds no prompt: write one in each line.")
    return lines


class Cells:
    """A grid as a command describes it: its axes, its runs and its cells.

    Raises:
        UserError: an axis, a value, a run or a step that cannot be used, before anything is loaded.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.templates, self.seeds = templates_of(cfg), list(cfg.seeds)
        self.axes, self.additions = self._axes(), additions_of(cfg)
        self.runs: dict[str, Run | PlainModel] = {}
        for folder in self.values("run"):
            self.runs[str(folder)] = source_of(cfg, folder, self.additions)
        self.check()

    def _axes(self) -> dict[str, Axis]:
        """The axes with all their values; rows of prompts and columns of seeds without any."""
        axes = parse_axes(self.cfg.grid)
        if not axes:
            axes = {"x": Axis("seed", ()), "y": Axis("prompt", ())}
        names = {axis.name for axis in axes.values()}
        if "prompt" not in names and len(self.templates) > 1:
            free = next((place for place in PLACES if place not in axes), None)
            if free is None:
                raise UserError(
                    f"prompts holds {len(self.templates)} prompts, and no axis of the grid shows "
                    "them: give one, or make an axis grid.z=prompt."
                )
            axes[free] = Axis("prompt", ())
        lists = {"prompt": tuple(self.templates), "seed": tuple(self.seeds)}
        return {
            place: axis if axis.values else Axis(axis.name, lists[axis.name])
            for place, axis in axes.items()
        }

    def values(self, name: str) -> tuple[Any, ...]:
        """List the values of a setting: those of its axis, or the command's one value."""
        for axis in self.axes.values():
            if axis.name == name:
                return axis.values
        own = {"prompt": self.templates[0], "seed": self.seeds[0]}
        if name in own:
            return (own[name],)
        return (self.cfg.get(name),)

    def check(self) -> None:
        """Refuse what no run could draw; nothing is loaded.

        Raises:
            UserError: names the value and what it must be.
        """
        for name, run in self.runs.items():
            own = sampling_of(self.cfg, run)
            for scheduler in self.values("scheduler"):
                for steps in self.values("num_inference_steps"):
                    self._sampling(own, {"scheduler": scheduler, "num_inference_steps": steps})
            for step in self.values("step"):
                weights = self.weights(name, step)
                if isinstance(weights, RunWeights):
                    weights.check()
            if any(weight != 1 for weight in self.values("adapter_weight")):
                self._check_scalable(run)

    def _check_scalable(self, run: Run | PlainModel) -> None:
        """Refuse an adapter_weight other than 1 where it would change nothing."""
        if isinstance(run, Run):
            adapter, kind = recorded_method(run).adapter, run.record["export"]
            if kind not in ("lora", "adapter"):
                raise UserError(
                    f"adapter_weight needs a run with an adapter, and {run.folder} exported "
                    f"{kind}: train one with method=lora."
                )
            # a LoRA that is none of the method's own was extracted
            if adapter is not None and not adapter.is_scalable and kind == "adapter":
                raise UserError(
                    f"adapter_weight must be 1 for {run.folder}: the update of a "
                    f"{run.config['method']['name']} adapter is no sum that can be scaled."
                )
        elif not self.additions.adapters:
            raise UserError("adapter_weight needs an adapter: give adapters=[FILE] too.")

    def weights(self, run: str, step: int | None) -> RunWeights | PlainWeights:
        """The weights of a run at a step, or of the base model."""
        return weights_of(self.runs[run], self.additions, step)

    def labels(self, place: str) -> list[str]:
        """Write the values of an axis; a prompt is filled if all runs have the same words."""
        axis, words = self.axes[place], [run.words for run in self.runs.values()]
        if axis.name == "prompt" and all(each == words[0] for each in words):
            return [filled(value, words[0], words[0].phrase) for value in axis.values]
        return [label(axis.name, value, axis.values) for value in axis.values]

    def layer(self, z: int) -> list[Cell]:
        """List the cells of one sheet, row by row."""
        sizes = {place: len(axis.values) for place, axis in self.axes.items()}
        cells = product(range(sizes.get("y", 1)), range(sizes.get("x", 1)))
        return [self._cell({"x": x, "y": y, "z": z}) for y, x in cells]

    def _cell(self, place: dict[str, int]) -> Cell:
        chosen = {a.name: a.values[place[p]] for p, a in self.axes.items()}
        run = self.runs[str(chosen.get("run", self.values("run")[0]))]

        def value(key: str) -> Any:
            return chosen.get(key, self.values(key)[0])

        template, words = value("prompt"), run.words
        return Cell(
            run.folder,
            value("step"),
            float(value("adapter_weight")),
            self._sampling(sampling_of(self.cfg, run), chosen),
            filled(template, words, words.phrase),
            filled(template, words, words.class_noun),
            value("seed"),
        )

    def _sampling(self, own: Sampling, chosen: dict[str, Any]) -> Sampling:
        """Change a run's sampling as the axes say."""
        changed: dict[str, Any] = {"negative_prompt": self.cfg.negative_prompt}
        for name in ("negative_prompt", "num_inference_steps"):
            if chosen.get(name) is not None:
                changed[name] = chosen[name]
        if "guidance_scale" in chosen:
            changed["guidance_scale"] = float(chosen["guidance_scale"])
        if isinstance(chosen.get("scheduler"), str):
            changed |= self._schedulers[chosen["scheduler"]]
        return _checked(own, changed)

    @cached_property
    def _schedulers(self) -> dict[str, dict[str, Any]]:
        """Name and options of every scheduler on the axis, by its choice."""
        known = {path.stem: path for path in files_of("scheduler", [CONF]) if path.stem != "auto"}
        found = {}
        for name in self.values("scheduler"):
            if name not in known:
                raise UserError(no_choice("scheduler", name, known))
            block: Any = OmegaConf.to_container(OmegaConf.load(known[name]))
            if block["name"] == "LMSDiscreteScheduler":
                need("scipy", f"scheduler={name}", "leave it out")
            found[name] = {"scheduler": block["name"], "options": block["options"]}
        return found


def filled(template: str, words: SubjectWords, subject: str) -> str:
    """Fill a prompt's `{subject}` and `{class_noun}`.

    Raises:
        UserError: other braces, or a field where the subject has no words.
    """
    if not subject:
        if "{" in template:
            raise UserError(f"the prompt {template!r} names the subject: {NO_SUBJECT}.")
        return template
    return fill(template.replace("{class_noun}", words.class_noun), None, subject)
