"""Make a LoRA from a full fine-tune: of each layer's change, the nearest matrix of a low rank.

By Eckart and Young (1936) that is the change's singular value decomposition, cut after `rank`
values: `W' - W = U S V^T`, `B = U_r sqrt(S_r)`, `A = sqrt(S_r) V_r^T`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig
from torch import Tensor

from dreambooth.errors import UserError
from dreambooth.model.adapters.lora_files import put_adapters, save_lora
from dreambooth.model.adapters.peft_kinds import Adapter
from dreambooth.model.interface import BaseModel


@dataclass(frozen=True)
class LayerError:
    """How much of a layer's change a LoRA holds.

    `change` is the Frobenius norm of the change, and `left` of what the LoRA lacks of it.
    """

    layer: str
    change: float
    left: float

    @property
    def relative(self) -> float:
        """The relative error, `left / change`, from 0 to 1."""
        return self.left / self.change


@dataclass(frozen=True)
class Extracted:
    """One network's LoRA of `rank`, with its error.

    `state` holds A `[rank,in,...]` and B `[out,rank,...]` of every layer that changed, named
    `<layer>.lora_A.weight` and `<layer>.lora_B.weight`, for a scale of 1. `left_out` holds the
    norms of other changes: of biases, normalisation layers and embeddings, which no LoRA has.
    """

    rank: int
    state: dict[str, Tensor]
    layers: tuple[LayerError, ...]
    left_out: dict[str, float] = field(default_factory=dict)

    @property
    def adapter(self) -> Adapter:
        """The LoRA as PEFT takes it; alpha is the rank."""
        names = [error.layer for error in self.layers]
        return Adapter(
            LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=names), self.state
        )


def extract_lora(
    base_state: Mapping[str, Tensor],
    tuned_state: Mapping[str, Tensor],
    rank: int,
    targets: Sequence[str] | None = None,
    device: str = "cpu",
) -> Extracted:
    """Make a LoRA of one network from its weights before and after a fine-tune.

    Linear layers and convolutions count; one that did not change, but for a rounding of all to
    half precision, has no adapter. A layer whose sides are smaller than `rank` is padded with
    zeros, so that all have one rank.

    Args:
        base_state, tuned_state: the network's weights by name, of equal shapes. An embedding matrix
            may have grown: new rows are no change of the network's.
        targets: ends of the names of the layers that count, such as `to_q`; None for all.
        device: where the decompositions are computed, in float32.

    Raises:
        UserError: a rank below 1, or states of different architectures.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise UserError(f"rank={rank} is not usable: it must be a whole number, 1 or greater.")
    _refuse_other_architecture(base_state, tuned_state)
    state, errors, left_out = {}, [], {}
    for name in sorted(base_state):
        before = base_state[name].to(device, torch.float32)
        after = tuned_state[name][: len(before)].to(device, torch.float32)
        if _is_rounded(before, after):
            continue
        change = after - before
        norm = change.norm().item()
        layer = name.removesuffix(".weight")
        if not _is_adaptable(name, change) or not _is_target(layer, targets):
            left_out[name] = norm
            continue
        a, b, left = _factors(change, rank)
        state |= {f"{layer}.lora_A.weight": a.cpu(), f"{layer}.lora_B.weight": b.cpu()}
        errors.append(LayerError(layer, norm, left))
    return Extracted(rank, state, tuple(errors), left_out)


def total_error(extracted: Sequence[Extracted], with_left_out: bool = False) -> float:
    """Compute the relative Frobenius error over all layers: `sqrt(sum left^2 / sum change^2)`.

    With `with_left_out`, what no LoRA can hold counts as lacking. 0 where nothing changed.
    """
    pairs = [(error.left, error.change) for each in extracted for error in each.layers]
    if with_left_out:
        pairs += [(norm, norm) for each in extracted for norm in each.left_out.values()]
    whole = math.fsum(change**2 for _, change in pairs)
    return math.sqrt(math.fsum(left**2 for left, _ in pairs) / whole) if whole else 0.0


def write_extracted(base: BaseModel, extracted: Mapping[str, Extracted], folder: Path) -> Path:
    """Write the LoRAs of each network as the file that diffusers loads.

    `base` is the model before the fine-tune; it has the adapters afterwards.

    Raises:
        UserError: nothing changed, so that there is no adapter.
    """
    put_adapters(base, {name: each.adapter for name, each in extracted.items() if each.layers})
    return save_lora(base, folder)


def _factors(change: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Cut a change `[out,in,...]` => A `[rank,in,...]`, B `[out,rank,...]`, the norm that is left.

    A of a convolution has its kernel, and B a kernel of one pixel.
    """
    matrix = change.flatten(1)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    a, b = matrix.new_zeros(rank, matrix.shape[1]), matrix.new_zeros(len(matrix), rank)
    a[: len(root)], b[:, : len(root)] = root[:, None] * vh[:rank], u[:, :rank] * root
    kernel = (1,) * (change.dim() - 2)
    left = s[rank:].norm().item()
    return a.reshape(rank, *change.shape[1:]), b.reshape(len(matrix), rank, *kernel), left


def _is_rounded(before: Tensor, after: Tensor) -> bool:
    """Tell whether a weight is the base's own, perhaps saved in half precision."""
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    return any(torch.equal(after, before.to(dtype).float()) for dtype in dtypes)


def _is_adaptable(name: str, weight: Tensor) -> bool:
    """Tell whether a weight is a linear layer's or a convolution's; embeddings look like linear."""
    is_embedding = name.endswith(("_embedding.weight", "class_embedding"))
    return name.endswith(".weight") and weight.dim() in (2, 4) and not is_embedding


def _is_target(layer: str, targets: Sequence[str] | None) -> bool:
    return targets is None or any(f".{layer}".endswith(f".{target}") for target in targets)


def _refuse_other_architecture(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> None:
    """Raise UserError unless both have the same weights, but for new rows of an embedding."""
    lost = sorted(base.keys() ^ tuned.keys())
    for name in sorted(base.keys() & tuned.keys()):
        before, after = base[name].shape, tuned[name].shape
        has_grown = before[1:] == after[1:] and name.endswith("_embedding.weight")
        if before != after and not (has_grown and after[0] >= before[0]):
            lost.append(name)
    if lost:
        raise UserError(
            f"the base model and the fine-tuned one differ in {lost[0]}: a LoRA needs two of one "
            "architecture, so give the base model that was fine-tuned."
        )
