"""Ids of scores, and the refusal to mix them."""

from __future__ import annotations

import re

import pytest

from dreambooth.errors import UserError
from dreambooth.metrics import variants
from spine import ROOT

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


def test_the_documentation_names_the_ids_as_they_are():
    text = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    named = set(re.findall(r"`((?:dino|clip_i|clip_t|pres|div|div_class|real_ref)\.[^`]+)`", text))
    dino, clip_i = variants.dino_id(DINO), variants.clip_i_id("clip.b32")
    div = "lpips.alex.v0.1.512"
    assert named == {
        dino,
        clip_i,
        variants.clip_t_id("clip.b32", "class_only"),
        variants.clip_t_id("clip.b32", "with_id"),
        variants.pres_id("class_prompt", dino),
        variants.pres_id("other_subjects", dino),
        variants.div_id(div, 4),
        f"div_class.{variants.div_id(div, 32).removeprefix('div.')}",
        variants.real_ref_id(clip_i, include_self=False),
        variants.real_ref_id(clip_i, include_self=True),
    }
