"""The resolvers that the YAML files use."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from dreambooth.cli.configuration.resolvers import drawing, drawn_in, slug
from dreambooth.errors import UserError


def test_long_overrides_that_begin_alike_keep_folders_of_their_own():
    long = "model.path=" + "x" * 300
    assert slug(f"{long},subject=dog") != slug(f"{long},subject=cat")
    assert len(slug(f"{long},subject=dog")) <= 200 and slug("lr=1,ppl=true") == "lr=1,ppl=true"
    assert slug("run=a b/c,x=[1]") == "run=a-b-c,x=-1-" and slug("") == "run"


def test_a_drawing_is_named_by_what_was_asked_for():
    assert drawing("") == "images" and drawing("preset=token") == "preset=token"
    assert drawing("grid.x='seed=0,1',step=2") == "grid.x=seed=0,1,step=2"
    names = {drawing(f"prompts=['{text}']") for text in ("a dog!", "a dog?", "כלב", "犬")}
    assert len(names) == 4 and all(name.isascii() and len(name) <= 200 for name in names)
    assert len(drawing("prompts=" + "x" * 300)) <= 200


def test_pictures_lie_in_a_run_that_has_its_record(tmp_path):
    with pytest.raises(UserError, match="is not a finished run"):
        drawn_in(str(tmp_path))
    run = tmp_path / "ppl=True"
    run.mkdir()
    (run / "run.json").touch()
    with pytest.raises(UserError, match=f"holds a finished run: give run={run}$"):
        drawn_in(str(tmp_path))
    (tmp_path / "run.json").touch()
    assert drawn_in(str(tmp_path)) == f"{tmp_path}/generated"
    assert drawn_in(None) == "outputs/generated"


def test_they_resolve():
    text = "a: ${if:true,x,y}\nb: ${if:false,x,y}\nc: ${last_word:'rain boot'}\nd: ${slug:'a b'}"
    assert OmegaConf.create(text) == {"a": "x", "b": "y", "c": "boot", "d": "a-b"}
