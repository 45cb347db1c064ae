"""What trained weights depend on: the one place that resuming, reuse and reports ask.

Every key of `conf/train.yaml` belongs to the table with the longest name that it is under; a test
goes through all keys.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.files import cache_key, file_hash, folder_hash

if TYPE_CHECKING:  # the tables are read where torch is not needed
    from dreambooth.data.batches import KeyedBatches
    from dreambooth.model.interface import BaseModel
    from dreambooth.training.spec import TrainSpec

# trained weights depend on these values
WEIGHTS = (
    "seed",
    "ppl",
    "lr",
    "train_text_encoder",
    "text_encoder_lr",
    "text_encoder_stop_step",
    "loraplus_lr_ratio",
    "instance_prompt",
    "class_prompt",
    "resolution",
    "augment",
    "batch_size",
    "accumulate",
    "pairing",
    "prior",
    "loss",
    "lr_schedule",
    "lr_warmup_steps",
    "max_grad_norm",
    "ema_decay",
    "optimizer",
    "frozen_dtype",
    "model.quantize",
    "trainer.precision",
    "trainer.devices",
)
# trained weights depend on the content that these name, or on a part of them: see `facts_of`;
# sampling.dtype is that of the class images; class_noun, of experiment=paper_table4, is in prompts;
# checkpoint.patience may end a phase before max_steps, and each step's weights are the same;
# of `prior` and class_prompt only what the prior loss uses counts: see `counted_prior`
CONTENT = (
    "model",
    "subject",
    "photos",
    "method",
    "init_adapter",
    "max_steps",
    "checkpoint.patience",
    "sampling.dtype",
    "class_noun",
)
# of `prior`: what class images that are drawn depend on; a user's own count by their content
DRAWN_PRIOR = ("num_class_images", "seed", "sampler", "num_inference_steps", "guidance_scale")

# images, scores or costs of a run depend on these; weights do not, but for rounding
RESULTS = (
    "identifier",
    "subject_phrase",
    "scheduler",
    "sampling",
    "checkpoint.best",
    "export",
    "gradient_checkpointing",
    "compile",
    "trainer",
)
# nothing that runs are compared by depends on these; scores keep a record of their evaluation
NEITHER = (
    "output_dir",
    "cache_dir",
    "offload",
    "logger",
    "resume",
    "reuse",
    "evaluation",
    "samples",
    "checkpoint.every_n_steps",
    "checkpoint.keep",
    "checkpoint.keep_when_finished",
    "export.layouts",
    "export.verify",
    "export.push_to_hub",
    "trainer.log_every_n_steps",
    "objective",
    "published",
    "dry_run",
    "resume_sweep",
)

# the code that a training step runs, below the package
CODE = ("data", "diffusion", "model", "random.py")
CODE += ("training/average.py", "training/module.py", "training/phase.py")


def is_under(key: str, names: Sequence[str]) -> bool:
    """Tell whether a dotted key is one of `names` or lies in one of them."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join the keys of nested mappings: `{"a": {"b": 1}}` => `{"a.b": 1}`; lists stay whole."""
    result = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        result |= flat(inner, f"{name}.") if isinstance(inner, Mapping) else {name: inner}
    return result


def facts_of(
    spec: TrainSpec, model: BaseModel, photos: Sequence[Path], batches: KeyedBatches
) -> dict[str, Any]:
    """List what the weights of all phases depend on, as plain values that a user can compare."""
    facts = {key: _select(spec.config, key) for key in WEIGHTS}
    facts |= counted_prior(facts, spec.prior is not None)
    if depends_on_length(spec.config):
        facts["max_steps"] = spec.config["max_steps"]
    if spec.init_adapter is not None:
        facts["init_adapter"] = _content_of_adapter(spec.init_adapter)
    return facts | {
        "model": model.weights_hash(),
        "method": {part: spec.config["method"][part] for part in ("adapter", "token")},
        "photos": cache_key(hashes=[file_hash(path) for path in photos]),
        "class_images": None if batches.prior is None else batches.prior.key,
        "prompts": sorted(set(batches.instance.prompts)),
    }


def counted_prior(facts: Mapping[str, Any], is_used: bool) -> dict[str, Any]:
    """Return `ppl`, `prior` and `class_prompt` without what no training depends on.

    That is all of them without a prior loss; with one, the last weight of a schedule that there is
    not, and how class images are drawn where none are.
    """
    if not is_used:
        return {"ppl": False, "prior": None, "class_prompt": None}
    prior, unused = facts["prior"], ["images_dir"]
    if prior.get("weight_schedule") == "constant":
        unused.append("weight_end")
    if prior.get("kind") == "prediction" or prior.get("images_dir") is not None:
        unused += DRAWN_PRIOR
    kept = {key: value for key, value in prior.items() if key not in unused}
    return {"ppl": True, "prior": kept, "class_prompt": facts["class_prompt"]}


def _content_of_adapter(path: str) -> str:
    from dreambooth.model.adapters.additions import adapter_hash
    from dreambooth.model.adapters.formats import find_adapter

    return adapter_hash(find_adapter(path))


def depends_on_length(config: Mapping[str, Any]) -> bool:
    """Tell whether a step of a phase depends on how many there are, as a schedule's steps do."""
    weight = config["prior"].get("weight_schedule", "constant")  # of an earlier version: none
    return config["lr_schedule"] != "constant" or config["ppl"] and weight != "constant"


def facts_of_phases(spec: TrainSpec, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List what each phase's weights depend on: its own settings, and the phases before it.

    The number of steps is left out if no step depends on it: more steps continue the phase.
    """
    result, facts = [], dict(facts)
    for number, phase in enumerate(spec.method.phases):
        names = ("unet", "text_encoder")
        parts: dict[str, Any] = {
            name: kind if isinstance(kind, str) else list(kind)  # as JSON gives it back
            for name, kind in zip(names, phase.parts.parts, strict=True)
        }
        if phase.token_lr is not None:
            parts["token_lr"] = phase.token_lr
        own = {**facts, "lr": phase.lr, "phase": parts}
        if "max_steps" in facts:
            own["max_steps"] = phase.max_steps
        result.append(own)
        done = {**parts, "lr": phase.lr, "max_steps": phase.max_steps}
        facts[f"phase_{number}"] = done
    return result


def rounding_facts(spec: TrainSpec, batches: KeyedBatches) -> dict[str, Any]:
    """List what trained weights depend on beside their facts, if only in their last bits.

    A run that takes over what another has trained must agree in these too: the order of photos
    and captions, the Trainer, the machine, and the code.
    """
    import torch

    config, examples = spec.config, [batches.instance, batches.prior]
    on_gpu = spec.hardware.device == "cuda"
    libraries = ["torch", "diffusers", "transformers", "peft", "pytorch-lightning"]
    return {
        "examples": [
            [each.key, each.content, *each.prompts] for each in examples if each is not None
        ],
        "trainer": {k: v for k, v in config["trainer"].items() if k != "log_every_n_steps"},
        "gradient_checkpointing": config["gradient_checkpointing"],
        "compile": config["compile"],
        "processor": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in libraries},
        "optimizer": code_of(config["optimizer"]["_target_"]),
        "code": _code_hash(),
    }


def code_of(target: str) -> str | None:
    """Return the version of an installed library, or a hash of a user's own module or package.

    A package that is installed from a folder that is still edited is a user's own.
    """
    name = target.partition(".")[0]
    installed, spec = _version(name), find_spec(name)
    if spec is None or spec.origin is None:
        return installed
    file = Path(spec.origin)
    if installed and {"site-packages", "dist-packages"} & set(file.parts):
        return installed
    places = file.parent.rglob("*.py") if spec.submodule_search_locations else [file]
    return folder_hash(file.parent, places)


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:  # a package has another name than its module
        return None


@cache
def _code_hash() -> str:
    package = Path(__file__).parents[2]
    places = [package / name for name in CODE]
    files = [f for place in places for f in ([place] if place.is_file() else place.rglob("*.py"))]
    return folder_hash(package, files)


def _select(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value
