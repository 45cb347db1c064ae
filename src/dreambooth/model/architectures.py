"""Which architecture a model folder holds, and loading a model of any that can be trained."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import hf_hub_download, is_offline_mode

from dreambooth.errors import UserError
from dreambooth.model.flux2_klein import Flux2Klein
from dreambooth.model.interface import BaseModel
from dreambooth.model.source import ask_hub, is_local
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.model.stable_diffusion_3 import StableDiffusion3
from dreambooth.model.stable_diffusion_xl import StableDiffusionXL

ARCHITECTURES = (StableDiffusion, StableDiffusionXL, StableDiffusion3, Flux2Klein)


def load_model(
    path: str,
    revision: str | None = None,
    variant: str | None = None,
    max_sequence_length: int | None = None,
) -> BaseModel:
    """Load a local diffusers folder or a hub id, of whatever architecture it is.

    Args:
        max_sequence_length: what the pipelines of some architectures are told; None for the others.

    Raises:
        UserError: another architecture, or a part that is unreachable, incomplete or damaged.
    """
    kind = architecture_of(path, revision)
    return kind.from_pretrained(path, revision, variant, max_sequence_length)


def architecture_of(path: str, revision: str | None = None) -> type[StableDiffusion]:
    """Find the class of a model by the pipeline that its `model_index.json` names.

    A model without a file that can be read is taken for Stable Diffusion, which says what is amiss.

    Raises:
        UserError: no architecture here has that pipeline.
    """
    kind = _pipeline(path, revision)
    known = {architecture.layout.pipeline.__name__: architecture for architecture in ARCHITECTURES}
    if kind is None or kind in known:
        return known[kind or StableDiffusion.layout.pipeline.__name__]
    folders = (f"{name} ({each.layout.described})" for name, each in known.items())
    raise UserError(
        f"the model {path} is a {kind}: only folders of {' or '.join(folders)} can be trained here."
    )


def _pipeline(path: str, revision: str | None) -> str | None:
    """Return the pipeline class that a model names; None if that cannot be read."""
    try:
        return json.loads(_index(path, revision).read_text()).get("_class_name")
    except Exception:  # the hub's client raises its HTTP library's own types
        return None


def _index(path: str, revision: str | None) -> Path:
    name = "model_index.json"
    if is_local(path):
        return Path(path).expanduser() / name
    try:
        return Path(hf_hub_download(path, name, revision=revision, local_files_only=True))
    except Exception:
        if is_offline_mode():
            raise
        ask_hub(path, revision)
        return Path(hf_hub_download(path, name, revision=revision))
