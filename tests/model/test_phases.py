"""Which networks and parameters a phase names, and what it refuses."""

from __future__ import annotations

import pytest

from dreambooth.errors import UserError
from dreambooth.model.phases import Phase
from dreambooth.model.stable_diffusion import StableDiffusion

VALUE = "*.attn2.to_v.weight"


@pytest.mark.parametrize(
    ("unet", "text_encoder", "message"),
    [
        ("frozen", "frozen", "trains nothing"),
        ("token", "frozen", "unet=token"),
        ("full", "ful", "text_encoder=ful"),
        (True, "frozen", "unet=True"),
        ([], "frozen", "unet=\\[\\]"),
        ([4], "full", "unet=\\[4\\]"),
    ],
)
def test_nonsense_is_refused(unet, text_encoder, message):
    with pytest.raises(UserError, match=message):
        Phase(unet, text_encoder)


def test_a_pattern_that_matches_nothing_is_refused(model):
    Phase((VALUE,), "frozen").check(model, None)
    with pytest.raises(UserError, match=r"pattern \*.attn3.\* .*matches no parameter of the unet"):
        Phase((VALUE, "*.attn3.*"), "frozen").check(model, None)


def test_a_phase_covers_every_text_encoder_and_any_denoiser():
    class Other(StableDiffusion):
        """The names of an architecture with a transformer and two text encoders."""

        denoiser, text_encoders = "transformer", ("text_encoder", "text_encoder_2")

    kinds = Phase("adapter", "frozen").kinds(Other.__new__(Other))
    assert kinds == {"transformer": "adapter", "text_encoder": "frozen", "text_encoder_2": "frozen"}
