"""What a training step computes with in memory, from the networks' architecture.

A step is run on PyTorch's meta device, which knows shapes and computes nothing, and the tensors
that are alive at once are added up.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Any

from dreambooth.study.costs.known_models import clip_encoders

if TYPE_CHECKING:  # read where torch is not needed
    from torch import Tensor, nn

Plain = Mapping[str, Any]
Kind = str | tuple[str, ...]  # how a network trains: a word, or patterns of its weights' names


@cache
def peak_of_step(
    configs: str,
    kinds: tuple[Kind, ...],
    targets: tuple[str, ...],
    sizes: tuple[int, int, int],
    resolution: int,
    is_half: bool,
    is_checkpointed: bool,
) -> int:
    """Run a step on the meta device; return the most bytes that are alive at once.

    `sizes` are the rows of a step, and the tokens of a prompt: of CLIP, and others.
    """
    import torch

    settings, dtype = json.loads(configs), torch.bfloat16 if is_half else torch.float32
    unet = denoiser_of(settings)
    texts = text_encoders_of(settings) if kinds[1] != "frozen" else []
    for network, kind in ((unet, kinds[0]), *((text, kinds[1]) for text in texts)):
        torch.nn.Module.to(network, dtype).requires_grad_(False)
        _let_train(network, kind, targets)
        network.train()
    if is_checkpointed:
        unet.enable_gradient_checkpointing()
    rows, clip, others = sizes
    live = Live([p for network in (unet, *texts) for p in network.parameters()])
    with torch.device("meta"), _attention(), live.watched():
        inputs = inputs_of(unet, rows, side_of(settings, resolution), clip + others, dtype)
        if texts:
            words = inputs["encoder_hidden_states"]
            states = [text(torch.zeros(rows, clip, dtype=torch.long))[0] for text in texts]
            hidden = torch.cat(states, dim=-1)
            short = (0, words.shape[-1] - hidden.shape[-1], 0, others)
            inputs["encoder_hidden_states"] = words + torch.nn.functional.pad(hidden, short)
        unet(**inputs).sample.float().square().mean().backward()
    return live.peak


def denoiser_of(settings: Plain) -> Any:
    """Make the denoiser on the meta device, where weights have shapes and no values."""
    import diffusers
    import torch

    kind = getattr(diffusers, settings["unet"].get("_class_name", "UNet2DConditionModel"))
    with torch.device("meta"):
        return kind.from_config(settings["unet"])


def text_encoders_of(settings: Plain) -> list[Any]:
    """Make the text encoders that can train on the meta device."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        return [CLIPTextModel(CLIPTextConfig(**each)) for each in clip_encoders(settings)]


def side_of(settings: Plain, resolution: int) -> int:
    """Return the side of an image's latents."""
    halvings = len(settings.get("vae", {}).get("block_out_channels", range(4))) - 1
    return resolution // 2**halvings


def inputs_of(denoiser: Any, rows: int, side: int, length: int, dtype: Any) -> dict[str, Any]:
    """Make what a denoiser is given: latents of `side`, a timestep, prompts of `length` tokens."""
    import torch

    def empty(*shape: int) -> Tensor:
        return torch.empty(rows, *shape, dtype=dtype)

    config, given = denoiser.config, {"timestep": torch.zeros(rows, dtype=torch.long)}
    width = config.get("joint_attention_dim") or config.get("cross_attention_dim")
    given["encoder_hidden_states"] = empty(length, width)
    if "axes_dims_rope" in config:  # FLUX.2 klein, whose patches are 2x2 latents
        patches = (side // 2) ** 2
        given["hidden_states"] = empty(patches, config.in_channels)
        return given | {"img_ids": torch.zeros(patches, 4), "txt_ids": torch.zeros(length, 4)}
    latents = empty(config.in_channels, side, side)
    if "joint_attention_dim" in config:  # Stable Diffusion 3
        pooled = empty(config.pooled_projection_dim)
        return given | {"hidden_states": latents, "pooled_projections": pooled}
    if config.addition_embed_type == "text_time":  # Stable Diffusion XL
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        extra: Any = {"text_embeds": empty(pooled), "time_ids": empty(6)}
        given["added_cond_kwargs"] = extra
    return given | {"sample": latents}


def _let_train(network: nn.Module, kind: Kind, targets: Sequence[str]) -> None:
    """Let the weights train whose layers' inputs the backward pass needs.

    An adapter needs those of its layers. Gradients are dropped at once, and counted elsewhere.
    """
    ends = tuple(f".{target}.weight" for target in targets)
    for name, parameter in network.named_parameters():
        is_embedding = "token_embedding" in name
        trains = kind == "full" or kind == "token" and is_embedding
        if isinstance(kind, tuple):
            trains = any(fnmatchcase(name, pattern) for pattern in kind)
        elif kind not in ("full", "token", "frozen"):
            trains = name.endswith(ends) if ends else parameter.dim() == 2
        if trains:
            parameter.requires_grad_(True)
            parameter.register_post_accumulate_grad_hook(_drop)


def _drop(parameter: Tensor) -> None:
    parameter.grad = None


@contextmanager
def _attention() -> Iterator[None]:
    """Have attention need what its fused kernels do while the context lasts; "meta" has none.

    They keep queries, keys, values, the result and a sum for each query, not every pair.
    """
    import torch

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            result = query.new_empty((*query.shape[:-1], value.shape[-1]))
            sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
            ctx.save_for_backward(query, key, value, result, sums)
            return result

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
            return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])

    def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        return Fused.apply(query, key, value)

    functional: Any = torch.nn.functional
    # not a function mode, which the recomputation of gradient checkpointing does not see
    own, functional.scaled_dot_product_attention = functional.scaled_dot_product_attention, attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = own


class Live:
    """Count the bytes of the storages that are alive, but for those of some parameters."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.now = self.peak = 0
        self._parameters = [p.untyped_storage() for p in parameters]  # kept, as ids name them
        self._seen = {id(storage) for storage in self._parameters}

    def watched(self) -> Any:
        """Make a context in which every new storage is counted until it is freed."""
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        note = self._note

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
                result = func(*args, **(kwargs or {}))
                for leaf in tree_leaves(result):
                    if hasattr(leaf, "untyped_storage"):
                        note(leaf.untyped_storage())
                return result

        return Watch()

    def _note(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size
