"""Ids of scores, and the refusal to mix them."""

from __future__ import annotations

import pytest

from dreambooth.errors import UserError
from dreambooth.metrics import variants

DINO = "dino.vits16.hub.r256c224_bicubic"


def test_ids_are_written_out():
    dino = variants.dino_id(DINO)
    assert dino == "dino.vits16.hub.r256c224_bicubic.allpairs.macro"
    assert variants.dino_id(DINO, "max", "micro").endswith(".max.micro")
    assert variants.clip_i_id("clip.b32") == "clip_i.b32.allpairs.macro"
    assert variants.clip_i_id("clip.pocket") == "clip_i.pocket.allpairs.macro"
    assert variants.clip_t_id("clip.b32", "class_only") == "clip_t.b32.class_only.matched.cos"
    assert variants.clip_t_id("clip.b32", "with_id") == "clip_t.b32.with_id.matched.cos"
    assert variants.pres_id("class_prompt", dino) == f"pres.class_prompt.{dino}"
    assert variants.div_id("lpips.alex.v0.1.512", 4) == "div.lpips.alex.v0.1.512.within_prompt.4"
    assert variants.real_ref_id("dino", include_self=False) == "real_ref.dino.exclude_self"
    assert variants.real_ref_id(DINO, include_self=True) == f"real_ref.{DINO}.include_self"


@pytest.mark.parametrize(
    "call",
    [
        lambda: variants.dino_id("clip.b32"),
        lambda: variants.dino_id("dino"),
        lambda: variants.dino_id(DINO, "mean"),
        lambda: variants.clip_t_id("clip.b32", "prompt"),
        lambda: variants.clip_t_id("clip.b32", "with_id", "percent"),
        lambda: variants.pres_id("class_prompt", "clip_i.b32"),
        lambda: variants.pres_id("prior", DINO),
        lambda: variants.div_id("l2", 4),
        lambda: variants.real_ref_id("clip_t.b32", include_self=True),
    ],
)
def test_unknown_fields_are_refused(call):
    with pytest.raises(UserError):
        call()
