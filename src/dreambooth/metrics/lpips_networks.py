"""Which LPIPS networks there are, and how one is loaded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreambooth.errors import UserError
from dreambooth.metrics.encoders import hash_weights, load_encoder
from dreambooth.metrics.features import Encoder
from dreambooth.metrics.perceptual import PerceptualDistance
from dreambooth.metrics.preprocess import HALF, Preprocess

BACKBONES = {  # torchvision's ImageNet weights, which the lpips package's linear heads were fit on
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
}


def load_distance(
    net: str,
    *,
    device: str | torch.device = "cpu",
    size: int = 512,
    encoders_dir: Path | str | None = None,
) -> PerceptualDistance:
    """Load `alex`, `vgg` (for images of `size` pixels) or `pocket` (at its encoder's own size).

    Raises:
        UserError: an unknown network, or weights that are not available.
    """
    if net == "pocket":
        encoder = load_encoder("pocket_dino", device=device, encoders_dir=encoders_dir)
        return pocket_distance(encoder)
    return load_lpips(net, device=device, size=size, encoders_dir=encoders_dir)


def pocket_distance(encoder: Encoder) -> PerceptualDistance:
    """Make the pocket DINO encoder's own LPIPS: eq. 1 over its L blocks' patch tokens, w = 1/L.

    Range [0,4]. It is not LPIPS as published: nothing was fit to human judgements.
    """
    model = encoder.model
    config = model.config
    size = encoder.preprocess.crop or encoder.preprocess.resize
    side = size // config.patch_size

    def layers(pixels: Tensor) -> list[Tensor]:
        states = model(pixel_values=pixels, output_hidden_states=True).hidden_states[1:]
        # patch tokens come last, after the CLS token: [N,1+HW,D] => [N,D,H,W]
        return [s[:, -side * side :].transpose(1, 2).unflatten(2, (side, side)) for s in states]

    count = config.num_hidden_layers
    weights = [torch.full((config.hidden_size,), 1 / count)] * count
    variant = f"lpips.pocket.v1.{size}"
    return PerceptualDistance(
        variant, encoder.preprocess, layers, weights, encoder.weights_hash, encoder.device
    )


def load_lpips(
    net: str,
    *,
    device: str | torch.device = "cpu",
    size: int = 512,
    encoders_dir: Path | str | None = None,
) -> PerceptualDistance:
    """Load LPIPS v0.1 with `net` alex or vgg; images are resized to `size` x `size` (bicubic).

    The linear heads are in the lpips package. The torchvision backbone is read from
    `encoders_dir` or torch hub's cache, or else downloaded.

    Raises:
        UserError: an unknown network, or a backbone that is not available.
    """
    if net not in BACKBONES:
        raise UserError(f"there is no LPIPS network {net}: use one of {', '.join(BACKBONES)}.")
    model = lpips_network(net, _backbone_weights(net, encoders_dir))
    return lpips_distance(model, size, device)


def lpips_network(net: str, backbone: dict[str, Tensor] | None) -> Any:
    """Make the lpips package's network with its linear heads; the random state does not change.

    Args:
        backbone: torchvision's state dict with `features.*`; None leaves the backbone random.
    """
    import lpips  # with torchvision and scipy, which only this network needs

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package calls torchvision's deprecated signature
        model = lpips.LPIPS(net=net, version="0.1", pnet_rand=True, verbose=False)
    if backbone is not None:
        state = {}
        for name in model.net.state_dict():  # slice2.3.weight <= features.3.weight
            state[name] = backbone["features." + name.split(".", 1)[1]]
        model.net.load_state_dict(state)
    return model.eval().requires_grad_(False)


def lpips_distance(model: Any, size: int, device: str | torch.device = "cpu") -> PerceptualDistance:
    """Make a distance of the lpips package's network on `size` x `size` images."""
    model = model.to(device)
    heads = [lin.model[-1].weight.flatten() for lin in model.lins]  # for each layer [C]

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


def _backbone_weights(net: str, encoders_dir: Path | str | None) -> dict[str, Tensor]:
    from huggingface_hub import is_offline_mode

    file = BACKBONES[net]
    folders = [Path(encoders_dir)] if encoders_dir else []
    folders.append(Path(torch.hub.get_dir()) / "checkpoints")
    fix = f"put torchvision's {file} in {folders[-1]} or in DIR with evaluation.encoders_dir=DIR"
    for folder in folders:
        if (folder / file).is_file():
            try:
                return torch.load(folder / file, map_location="cpu", weights_only=True)
            except Exception as error:  # torch.load raises many types on a damaged file
                raise UserError(f"{folder / file} cannot be read as weights: {fix}.") from error
    if is_offline_mode():
        raise UserError(f"LPIPS {net} lacks its backbone and HF_HUB_OFFLINE is set: {fix}.")
    try:
        url = f"https://download.pytorch.org/models/{file}"
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"LPIPS {net} needs a backbone that cannot be downloaded: {fix}."
        ) from error
