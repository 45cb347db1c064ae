"""The settings on a model card: what trained, how, on what, and the command that did it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dreambooth.study.finished.runs import Run
from dreambooth.study.page.repeat import command_of, versions_of

# an absolute path in an override, up to the sign that ends it
ABSOLUTE = re.compile(r"""(?<=[=,\["'])(?:~?/|[A-Za-z]:\\)[^,\]}"':]*""")


def settings_table(run: Run) -> str:
    """Write the card's table of what a finished run trained with, what it took, and its command."""
    config, costs = run.config, run.record["costs"]
    phases = "; ".join(f"{p['max_steps']} steps at {p['lr']:g}" for p in config["method"]["phases"])
    prior = config["ppl"] and config["method"]["uses_prior"]
    facts = {
        "training": phases,
        "what trains": _trained(config["method"]["phases"]),
        "adapter": _adapter(config["method"].get("adapter")),
        "batch": _batch(config, prior),
        "resolution": f"{config['resolution']} pixels",
        "optimizer": f"{config['optimizer']['_target_']}, rate {config['lr_schedule']}",
        "precision": config["trainer"]["precision"],
        "prior preservation": _prior(config["prior"]) if prior else "off",
        "class prompt": f"`{config['class_prompt']}`",
        "seed": config["seed"],
        "sampler": f"{run.sampling.scheduler}, {run.sampling.num_inference_steps} steps, guidance "
        f"{run.sampling.guidance_scale:g}",
        "device": run.record.get("device"),
        "time": f"{costs['seconds']:.0f} s",
        "files": f"{config['export']['dtype']}: {', '.join(config['export']['layouts'])}",
        "command": f"`{command}`" if (command := command_of(run.folder, named)) else None,
        "versions": ", ".join(f"{k} {v}" for k, v in versions_of(run.record).items()),
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value not in (None, "")]
    return "\n".join(["## Training", "", "| | |", "|---|---|", *rows])


def named(text: str) -> str:
    """Write the last name of each absolute path in an override, which may hold a home folder.

    >>> named("subject.photos=/home/me/photos/dog"), named("adapters=['/a/b.safetensors:0.8',c/d]")
    ('subject.photos=dog', "adapters=['b.safetensors:0.8',c/d]")
    """
    return ABSOLUTE.sub(lambda path: path[0].rstrip("/\\").replace("\\", "/").split("/")[-1], text)


def _trained(phases: Sequence[Mapping[str, Any]]) -> str:
    """Word which parts train in each phase."""

    def worded(phase: Mapping[str, Any]) -> str:
        parts = {name: phase[name] for name in ("unet", "text_encoder")}
        kinds = {n: k if isinstance(k, str) else f"`{', '.join(k)}`" for n, k in parts.items()}
        return ", ".join(f"{n.replace('_', ' ')}: {k}" for n, k in kinds.items() if k != "frozen")

    return "; ".join(worded(phase) for phase in phases)


def _adapter(block: Mapping[str, Any] | None) -> str:
    """Word an adapter's class and its own settings; empty without one."""
    if not block:
        return ""
    own = {k: v for k, v in block.items() if k not in ("_target_", "target_modules")}
    return ", ".join([block["_target_"], *(f"{key} {value}" for key, value in own.items())])


def _prior(block: Mapping[str, Any]) -> str:
    """Word how the prior is preserved."""
    if block["kind"] != "images":
        return f"weight {block['weight']}, by the base model's predictions"
    whose = "" if block["images_dir"] is None else " of its own"
    return f"weight {block['weight']}, {block['num_class_images']} class images{whose}"


def _batch(config: Mapping[str, Any], prior: bool) -> str:
    """Write what a micro-batch holds, and how many of them an optimizer step has."""
    photos, steps = config["batch_size"], config["accumulate"]
    others = f" and {config['prior']['batch_size']} for the prior loss" if prior else ""
    images = f"{photos} photo{'s' * (photos != 1)}{others}"
    return f"{images}, {steps} micro-batch{'es' * (steps != 1)} in a step"
