"""`dreambooth show FILE.png`: what drew an image, and the command that draws it again."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dreambooth.cli.configuration.configs import CONF, files_of
from dreambooth.errors import UserError
from dreambooth.png_text import OWN_KEY, SHARED_KEY, read_text
from dreambooth.quoting import printable, quoted, typed
from dreambooth.weights_files import content_hash

USAGE = "usage: dreambooth show FILE.png ...\n\nSay what drew each image, and how to draw it again."


def main(arguments: Sequence[str]) -> int:
    """Print what each file says of itself; return the exit code."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0 if arguments else 2
    for number, name in enumerate(arguments):
        try:
            text = shown(Path(name))
        except UserError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            return 2
        print(f"{chr(10) if number else ''}{printable(text)}")
    return 0


def shown(path: Path) -> str:
    """Describe an image from its text, and write the command that draws it again.

    Raises:
        UserError: a file that is no image or carries no such text.
    """
    text = read_text(path)
    if OWN_KEY not in text:
        if SHARED_KEY in text:
            return f"{path}: drawn by another program.\n{text[SHARED_KEY]}"
        raise UserError(
            f"{path} does not say what drew it: it is a sheet of several images, an earlier "
            "version or another program made it, or its text was removed."
        )
    try:
        record = json.loads(text[OWN_KEY])
        lines = [f"{name:16}{value}" for name, value in _facts(record).items()]
        return "\n".join([str(path), *(f"  {line}" for line in lines), "", *_again(path, record)])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} was written by another version of dreambooth ({error!r}): show it with "
            "that version."
        ) from None


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """List the facts that are shown, in order; settings without an effect are left out."""
    model, step, weight = record["model"], record["training_step"], record["adapter_weight"]
    hashes = ", ".join(f"{name} {digest[:16]}" for name, digest in record["hashes"].items())
    options = record["sampler_options"]
    facts = {
        "prompt": record["prompt"],
        "negative prompt": record["negative_prompt"],
        "seed": record["seed"],
        "sampler": record["sampler"] + (f" {options}" if options else ""),
        "steps": record["steps"],
        "guidance scale": record["guidance_scale"],
        "size": f"{record['width']}x{record['height']}",
        "precision": record["dtype"],
        "model": model if record["kind"] == "base" else f"{model}, {record['kind']} fine-tuned",
        "run": record["run"],
        "hashes": hashes,
        "adapters": _added(record, "adapters"),
        "embeddings": _added(record, "embeddings"),
        "training step": "" if step is None else step,
        "adapter weight": "" if weight == 1 else weight,
        "film": _film(record.get("morph")),
        "version": f"dreambooth {record['version']}",
    }
    return {name: value for name, value in facts.items() if value != ""}


def _added(record: Mapping[str, Any], kind: str) -> str:
    """Name what others made, with its weight or token and its hash."""
    texts = []
    for entry in record.get(kind, ()):
        setting = f"weight {entry['weight']:g}" if "weight" in entry else entry["token"]
        texts.append(f"{entry['name']} ({setting}) {entry['sha256'][:16]}")
    return ", ".join(texts)


def _film(morph: Mapping[str, Any] | None) -> str:
    if morph is None:
        return ""
    speed = f"{morph['seconds']:g} s at {morph['fps']:g} frames a second"
    return f"{morph['keyframes']} keyframes, {speed}"


def _again(path: Path, record: Mapping[str, Any]) -> list[str]:
    """Lines with the command that draws the image again."""
    if record["kind"] == "base":
        source, notes = f"model={record['model']}", []
    else:
        run, notes = _run_of(path, record)
        source = f"run={quoted(run)}"
    if record.get("adapters") or record.get("embeddings"):
        notes.append("Give each adapter and embedding by its file.")
    parts = ["python generate.py", typed(source), *map(typed, _overrides(record))]
    return ["Draw it again:", f"  {' '.join(parts)}", *notes]


def _overrides(record: Mapping[str, Any]) -> list[str]:
    film = record.get("morph")
    overrides = [f"prompts=[{quoted(record['prompt'])}]", f"seeds=[{record['seed']}]"]
    if record["negative_prompt"]:
        overrides.append(f"negative_prompt={quoted(record['negative_prompt'])}")
    overrides += _sampler(record["sampler"], record["sampler_options"])
    overrides.append(f"num_inference_steps={record['steps']}")
    overrides.append(f"guidance_scale={record['guidance_scale']}")
    if record["training_step"] is not None:
        overrides.append(f"step={record['training_step']}")
    if record["kind"] == "base":
        overrides.append(f"model.resolution={record['width']}")
    for kind, setting in (("adapters", "weight"), ("embeddings", "token")):
        if entries := record.get(kind):
            files = [quoted(f"{entry['name']}:{entry[setting]}") for entry in entries]
            overrides.append(f"{kind}=[{','.join(files)}]")
    if record["adapter_weight"] != 1:
        overrides.append(f"adapter_weight={record['adapter_weight']}")
    if film is not None:
        overrides += [
            f"morph.{name}={film[name]}" for name in ("keyframes", "seconds", "fps", "size")
        ]
        if len(film["prompts"]) > 1:
            overrides.append(f"morph.prompts=[{','.join(quoted(p) for p in film['prompts'])}]")
    return overrides


def _sampler(name: str, options: Mapping[str, Any]) -> list[str]:
    """Write a sampler as overrides: a choice of `scheduler=`, or one with its name replaced."""
    for path in files_of("scheduler", [CONF]):
        block: Any = OmegaConf.to_container(OmegaConf.load(path))
        if (block["name"], block["options"]) == (name, dict(options)):
            return [f"scheduler={path.stem}"]
    own = [f"+scheduler.options.{key}={_value(value)}" for key, value in options.items()]
    return ["scheduler=ddim", f"scheduler.name={name}", *own]


def _value(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _run_of(path: Path, record: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Find the run's folder above the image; notes say where it is not the one that drew it."""
    for folder in path.resolve().parents:
        if (folder / "run.json").is_file():
            break
    else:
        return "DIR", [f"DIR is the folder of the run {record['run']}."]
    here = Path.cwd()
    written = str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)
    export = record["hashes"].get("export")
    if export is not None and content_hash(folder / "model") != export:
        return written, ["The run's model has changed since: that command draws another picture."]
    return written, []
