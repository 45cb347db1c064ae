"""Which weights and settings drew an image, as facts and as the text that its PNG carries."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth import __version__
from dreambooth.errors import UserError
from dreambooth.model.interface import BaseModel
from dreambooth.png_text import OWN_KEY, SHARED_KEY
from dreambooth.sampling.spec import Sampling
from dreambooth.weights_files import content_hash

# diffusers' class => the name that AUTOMATIC1111 and Civitai give the sampler
SAMPLER_NAMES = {
    "DDIMScheduler": "DDIM",
    "DDPMScheduler": "DDPM",
    "PNDMScheduler": "PLMS",
    "LMSDiscreteScheduler": "LMS",
    "EulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "UniPCMultistepScheduler": "UniPC",
}
LOADED_DTYPES = ("torch.float32",) * 3  # of the networks of a model as it is loaded
HASH_LABELS = {
    "full": "Model hash",
    "lora": "Lora hashes",
    "adapter": "Adapter hashes",
    "token": "TI hashes",
}


@dataclass(frozen=True)
class Weights:
    """Which weights draw an image.

    Args:
        model: the base model's name, such as `pocket` or `sd15`.
        kind: what the run exports: `full`, `lora`, `adapter` or `token`; `base` for the base model.
        run: the name of the run's folder; paths of a machine do not belong into pictures.
        hashes: `export` (of the run's model folder) or `checkpoint` (of a step's file); `base` of
            the base model, where it was not trained itself.
        step: the optimizer step; None is the exported model.
        adapter_weight: what a LoRA is multiplied by.
        additions: adapters and embeddings that others made, by kind, each with its name, hash,
            and weight or token.
    """

    model: str
    kind: str
    run: str
    hashes: Mapping[str, str]
    step: int | None = None
    adapter_weight: float = 1.0
    additions: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """What images depend on, as JSON values: the hashes, and a weight other than 1."""
        scaled = {} if self.adapter_weight == 1 else {"adapter_weight": self.adapter_weight}
        added = {
            kind: [{k: v for k, v in entry.items() if k != "name"} for entry in entries]
            for kind, entries in self.additions.items()
        }
        return {**self.hashes, **scaled, **added}


def export_hashes(export: Path, base_hash: Callable[[], str]) -> dict[str, str]:
    """Hash the content of an exported model; beside adapters and tokens, name their base model.

    Args:
        base_hash: called for the hash of the base model where it is needed.

    Raises:
        UserError: nothing was exported.
    """
    if not any(export.glob("*")):
        raise UserError(f"{export} holds no model: train the run again or correct the path.")
    is_whole = (export / "model_index.json").exists()
    return {"export": content_hash(export)} | ({} if is_whole else {"base": base_hash()})


def network_dtypes(model: BaseModel) -> list[str]:
    """List the dtypes of a model's denoiser, text encoders and autoencoder."""
    networks = (model.denoiser, *model.text_encoders, model.autoencoder)
    return [str(model.network(name).dtype) for name in networks]


@dataclass(frozen=True)
class Provenance:
    """Everything that an image depends on beside its prompt and its seed."""

    weights: Weights
    sampling: Sampling
    dtypes: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """The facts under which a store keeps images."""
        return {**self.weights.facts, **self.sampling.facts, "dtypes": list(self.dtypes)}

    def text(self, prompt: str, seed: int) -> dict[str, str]:
        """Return the texts of a PNG: ours as JSON, and the one that other programs read."""
        return {
            SHARED_KEY: self._shared(prompt, seed),
            OWN_KEY: json.dumps(self.record(prompt, seed), ensure_ascii=False),
        }

    def record(self, prompt: str, seed: int) -> dict[str, Any]:
        """Describe one image completely, as JSON values."""
        weights, drawn = self.weights, self.sampling
        return {
            "prompt": prompt,
            "negative_prompt": drawn.negative_prompt,
            "seed": seed,
            "sampler": drawn.scheduler,
            "sampler_options": dict(drawn.options),
            "steps": drawn.num_inference_steps,
            "guidance_scale": drawn.guidance_scale,
            "width": drawn.resolution,
            "height": drawn.resolution,
            "dtype": drawn.dtype,
            "network_dtypes": list(self.dtypes),
            "model": weights.model,
            "kind": weights.kind,
            "hashes": dict(weights.hashes),
            **weights.additions,
            "adapter_weight": weights.adapter_weight,
            "training_step": weights.step,
            "run": weights.run,
            "version": __version__,
        }

    def _shared(self, prompt: str, seed: int) -> str:
        """Write AUTOMATIC1111's `parameters`: the prompt, the negative one, one line of pairs."""
        drawn = self.sampling
        pairs: dict[str, Any] = {
            "Steps": drawn.num_inference_steps,
            "Sampler": SAMPLER_NAMES.get(drawn.scheduler, drawn.scheduler),
            "CFG scale": drawn.guidance_scale,
            "Seed": seed,
            "Size": f"{drawn.resolution}x{drawn.resolution}",
            **self._model_pairs(),
            "Version": f"dreambooth {__version__}",
        }
        line = ", ".join(f"{key}: {value}" for key, value in pairs.items())
        negative = drawn.negative_prompt
        return "\n".join([prompt, *([f"Negative prompt: {negative}"] if negative else []), line])

    def _model_pairs(self) -> dict[str, Any]:
        """Name the model and its hashes, the first 10 hex digits of each as other programs do."""
        weights, pairs = self.weights, {}
        hashes = {name: digest[:10] for name, digest in weights.hashes.items()}
        if "base" in hashes:
            # trained weights of a checkpoint are those of no model file
            is_hidden = weights.kind == "full"
            pairs["Base model hash" if is_hidden else "Model hash"] = hashes["base"]
        pairs["Model"] = weights.model
        pairs |= self._hashes(hashes.get("export"))
        if "checkpoint" in hashes:
            pairs["Checkpoint hash"] = hashes["checkpoint"]
        if weights.step is not None:
            pairs["Training step"] = weights.step
        if weights.adapter_weight != 1:
            pairs["Adapter weight"] = weights.adapter_weight
        return pairs

    def _hashes(self, export: str | None) -> dict[str, str]:
        """Write the hashes of the run's export and of what others made, as `"NAME: HASH, ..."`."""
        weights, found = self.weights, {}
        label = HASH_LABELS.get(weights.kind, "Adapter hashes")
        if export is not None and weights.kind == "full":
            return {label: export} | self._hashes(None)
        if export is not None:
            found[label] = [f"{_plain(weights.run)}: {export}"]
        for kind, label in (
            ("adapters", HASH_LABELS["lora"]),
            ("embeddings", HASH_LABELS["token"]),
        ):
            for entry in weights.additions.get(kind, ()):
                name = _plain(entry.get("token", entry["name"]))
                found.setdefault(label, []).append(f"{name}: {entry['sha256'][:10]}")
        return {label: f'"{", ".join(entries)}"' for label, entries in found.items()}


def _plain(name: str) -> str:
    """Write a run's name without the signs that separate the pairs."""
    return "".join("-" if sign in ':,"' else sign for sign in name)
