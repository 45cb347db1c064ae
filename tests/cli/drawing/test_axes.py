"""Axes of a grid, as they are typed."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from dreambooth.cli.drawing.axes import parse_axes, parse_axis, quote_axes
from dreambooth.errors import UserError

READ = {
    "guidance_scale=1.5,3,7.5": (1.5, 3, 7.5),
    "seed=range(0,3)": (0, 1, 2),
    "seed=[4,5]": (4, 5),
    "seed": (),
    "step=0,50,null": (0, 50, None),
    "scheduler=ddim": ("ddim",),
    "prompt=a dog,a cat": ("a dog", "a cat"),
    'prompt="a {subject}, asleep","say \\"hi\\" (1/2)","o\'k 犬"': (
        "a {subject}, asleep",
        'say "hi" (1/2)',
        "o'k 犬",
    ),
    "negative_prompt='',blurry": ("", "blurry"),
    "run='a,ppl=True','a,ppl=False'": ("a,ppl=True", "a,ppl=False"),
}
REFUSED = {
    "cfg=1": "no axis cfg: did you mean guidance_scale?",
    "schedular=ddim": "did you mean scheduler?",
    "zzz=1": "choose one of prompt, negative_prompt",
    "guidance_scale": "guidance_scale has no values",
    "guidance_scale=high": "guidance_scale=high is not usable: it must be a number, 0 or greater",
    "seed=1.5": "seed=1.5 is not usable: it must be a whole number",
    "seed=true": "seed=True is not usable",
    "num_inference_steps=0": "must be a whole number greater than 0",
    "seed=1,2,1": "seed=1 is there twice",
    "prompt=a {subject}": "cannot be read at prompt=.* in quotes of its own",
    "prompt=''": "must be a text in quotes",
    "": "grid.x= is no axis: write 'NAME=VALUE,VALUE'",
}


@pytest.mark.parametrize("text", READ)
def test_an_axis_is_read_as_hydra_reads_values(text):
    axis = parse_axis("grid.x", text)
    assert (axis.name, axis.values) == (text.partition("=")[0], READ[text])


@pytest.mark.parametrize("text", REFUSED)
def test_a_wrong_axis_is_one_sentence(text):
    with pytest.raises(UserError, match=REFUSED[text]):
        parse_axis("grid.x", text)


def test_two_axes_cannot_vary_the_same():
    with pytest.raises(UserError, match=r"grid.y varies seed, and so does grid.x"):
        parse_axes({"x": "seed=0,1", "y": "seed=2", "z": None})


@pytest.mark.parametrize("text", [text for text in READ if text != "seed"])
def test_a_typed_axis_arrives_as_it_was_typed(text):
    """Its commas are no sweep of Hydra's; a value that is quoted already stays."""
    (override,) = quote_axes([f"grid.y={text}"])
    parsed = OverridesParser.create().parse_override(override)
    assert not parsed.is_sweep_override() and parsed.value() == text
    assert quote_axes([override]) == [override]
    assert quote_axes(["seeds=[0,1]", "grid.z=null"]) == ["seeds=[0,1]", "grid.z=null"]


def test_a_layout_needs_no_quotes_of_hydras():
    layout = "{subject}/{prompt_index}_{seed}_*.png"
    assert quote_axes([f"layout={layout}"]) == [f"layout='{layout}'"]
