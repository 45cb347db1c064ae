"""LPIPS distances between images from features computed once per image (Zhang et al. 2018, eq. 1).

d(x, x0) = sum_l 1/(H_l W_l) sum_hw sum_c w_lc (y_l - y0_l)^2, where y_l are the channel-unit
features of layer l. Networks see each image once; pairs cost arithmetic only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import is_offline_mode
from torch import Tensor, nn

from dreambooth.errors import UserError
from dreambooth.metrics.encoders import hash_weights, load_encoder
from dreambooth.metrics.features import Encoder, full_precision
from dreambooth.metrics.preprocess import HALF, ImageLike, Preprocess, open_image

if TYPE_CHECKING:
    import lpips

BACKBONES = {  # torchvision's ImageNet weights, which the lpips package's linear heads were fit on
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
}


def _unit(layer: Tensor) -> Tensor:
    """Divide features `[N,C,H,W]` by their length over channels, as lpips.normalize_tensor does."""
    return layer / (torch.sqrt(torch.sum(layer**2, dim=1, keepdim=True)) + 1e-10)


def pairwise_distance(features: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Layers `[n,C,H,W]` of channel-unit features, weights `[C]` => distances `[n,n]` float64.

    Differences are taken before squaring, so equal images are at distance exactly 0.
    """
    n = len(features[0])
    result = torch.zeros(n, n, dtype=torch.float64)
    for layer, weight in zip(features, weights, strict=True):
        layer = layer.flatten(2)  # [n,C,HW]
        weight = weight.to(layer.device, torch.float64)
        for i in range(n - 1):
            squared = (layer[i + 1 :] - layer[i]).square_().mean(dim=2)  # [n-i-1,C]
            result[i, i + 1 :] += (squared.double() @ weight).cpu()
    return result + result.T


@dataclass
class PerceptualDistance:
    """A distance between images; `variant` is its part of DIV's id (`lpips.alex.v0.1.512`).

    `layers`: network input `[N,3,S,S]` => list of `[N,C,H,W]`, not normalised; `weights` `[C]`;
    `weights_hash` as `Encoder`'s, over the backbone and the heads.
    """

    variant: str
    preprocess: Preprocess
    layers: Callable[[Tensor], list[Tensor]]
    weights: list[Tensor]
    weights_hash: str
    device: torch.device

    def features(self, images: Sequence[ImageLike], batch_size: int = 4) -> list[Tensor]:
        """Images => channel-unit features, a list of `[n,C,H,W]` over layers."""
        parts = []
        for start in range(0, len(images), batch_size):
            batch = [self.preprocess(open_image(i)) for i in images[start : start + batch_size]]
            with full_precision(self.device):
                layers = self.layers(torch.stack(batch).to(self.device))
                parts.append([_unit(layer) for layer in layers])
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]

    def distance(self, images: Sequence[ImageLike], batch_size: int = 4) -> Tensor:
        """Images => symmetric distances `[n,n]` float64, zero on the diagonal.

        Raises UserError for no images or unreadable files.
        """
        if not images:
            raise UserError(f"{self.variant}: there are no images to compare.")
        with full_precision(self.device):
            return pairwise_distance(self.features(images, batch_size), self.weights)


def load_lpips(
    net: str,
    *,
    device: str | torch.device = "cpu",
    size: int = 512,
    encoders_dir: Path | str | None = None,
) -> PerceptualDistance:
    """LPIPS v0.1 with `net` alex or vgg; images are squashed to `size` x `size` (bicubic).

    The linear heads ship with the lpips package; the torchvision backbone is read from
    `encoders_dir`, else torch hub's cache, else downloaded. Raises UserError where it cannot be.
    """
    if net not in BACKBONES:
        raise UserError(f"there is no LPIPS network {net}: use one of {', '.join(BACKBONES)}.")
    model = lpips_network(net, _backbone_weights(net, encoders_dir))
    return lpips_distance(model, size, device)


def lpips_network(net: str, backbone: dict[str, Tensor] | None) -> lpips.LPIPS:
    """The package's network with its linear heads and a torchvision `features.*` state dict.

    `backbone=None` leaves the backbone random.
    """
    import lpips

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package calls torchvision's deprecated signature
        model = lpips.LPIPS(net=net, version="0.1", pnet_rand=True, verbose=False)
    if backbone is not None:
        state = {}
        for name in model.net.state_dict():  # slice2.3.weight <= features.3.weight
            state[name] = backbone["features." + name.split(".", 1)[1]]
        model.net.load_state_dict(state)
    return model.eval().requires_grad_(False)


def lpips_distance(
    model: lpips.LPIPS, size: int, device: str | torch.device = "cpu"
) -> PerceptualDistance:
    """A distance over the lpips package's network `model` on `size` x `size` images."""
    model = model.to(device)
    heads = [lin.model[-1].weight.flatten() for lin in model.lins]  # one [C] per layer

    def layers(pixels: Tensor) -> list[Tensor]:
        return list(model.net(model.scaling_layer(pixels)))

    return PerceptualDistance(
        f"lpips.{model.pnet_type}.v{model.version}.{size}",
        Preprocess(size, None, "bicubic", *HALF),
        layers,
        heads,
        hash_weights(model),
        torch.device(device),
    )


def pocket_distance(encoder: Encoder) -> PerceptualDistance:
    """The pocket DINO encoder's own LPIPS: eq. 1 over its L blocks' patch tokens, w = 1/L.

    Range [0,4]. It is not LPIPS as published: no network was fit to human judgements.
    """
    model: nn.Module = encoder.model
    config = model.config
    grid = encoder.preprocess.crop or encoder.preprocess.resize
    side = grid // config.patch_size

    def layers(pixels: Tensor) -> list[Tensor]:
        states = model(pixel_values=pixels, output_hidden_states=True).hidden_states[1:]
        # Patch tokens come last, after the CLS token: [N,1+HW,D] => [N,D,H,W].
        return [s[:, -side * side :].transpose(1, 2).unflatten(2, (side, side)) for s in states]

    count = config.num_hidden_layers
    weights = [torch.full((config.hidden_size,), 1 / count)] * count
    variant = f"lpips.pocket.v1.{grid}"
    return PerceptualDistance(
        variant, encoder.preprocess, layers, weights, encoder.weights_hash, encoder.device
    )


def load_distance(
    net: str,
    *,
    device: str | torch.device = "cpu",
    size: int = 512,
    encoders_dir: Path | str | None = None,
) -> PerceptualDistance:
    """`alex`, `vgg` (at `size`) or `pocket` (at its encoder's own size) => a distance."""
    if net == "pocket":
        encoder = load_encoder("pocket_dino", device=device, encoders_dir=encoders_dir)
        return pocket_distance(encoder)
    return load_lpips(net, device=device, size=size, encoders_dir=encoders_dir)


def _backbone_weights(net: str, encoders_dir: Path | str | None) -> dict[str, Tensor]:
    file = BACKBONES[net]
    folders = [Path(encoders_dir)] if encoders_dir else []
    folders.append(Path(torch.hub.get_dir()) / "checkpoints")
    mend = f"put torchvision's {file} in {folders[-1]} or in DIR with evaluation.encoders_dir=DIR"
    for folder in folders:
        if (folder / file).is_file():
            try:
                return torch.load(folder / file, map_location="cpu", weights_only=True)
            except Exception as error:  # torch.load raises many types on a damaged file
                raise UserError(f"{folder / file} cannot be read as weights: {mend}.") from error
    if is_offline_mode():
        raise UserError(f"LPIPS {net} lacks its backbone and HF_HUB_OFFLINE is set: {mend}.")
    try:
        url = f"https://download.pytorch.org/models/{file}"
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"LPIPS {net} needs a backbone that cannot be downloaded: {mend}."
        ) from error
