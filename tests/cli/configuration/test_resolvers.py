"""The resolvers that the YAML files use."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from dreambooth.cli.configuration.resolvers import (
    drawing,
    drawn_in,
    run_folder,
    slug,
    without_places,
)
from dreambooth.errors import UserError


def test_long_overrides_that_begin_alike_keep_folders_of_their_own():
    long = "model.path=" + "x" * 300
    assert slug(f"{long},subject=dog") != slug(f"{long},subject=cat")
    assert len(slug(f"{long},subject=dog")) <= 200 and slug("lr=1,ppl=true") == "lr=1,ppl=true"
    assert slug("run=a b/c,x=[1]") == "run=a-b-c,x=-1-" and slug("") == "run"


def test_a_drawing_is_named_by_what_was_asked_for():
    assert drawing("") == "default" and drawing("preset=token") == "preset=token"
    assert drawing("grid.x='seed=0,1',step=2") == "grid.x=seed=0,1,step=2"
    names = {drawing(f"prompts=['{text}']") for text in ("a dog!", "a dog?", "כלב", "犬")}
    assert len(names) == 4 and all(name.isascii() and len(name) <= 200 for name in names)
    assert len(drawing("prompts=" + "x" * 300)) <= 200


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ("lr=1,photos.root=/data/a,b/c,ppl=true", "lr=1,ppl=true"),
        ("cache_dir=/tmp/c,lr=1", "lr=1"),
        ("evaluation.encoders_dir=~/e,+x=1,photos.root=D", "+x=1"),
        ("cache_dir=/tmp/c", ""),
        ("subject.photos=/home/me/my dog,subject=folder", "subject.photos=my dog,subject=folder"),
        ("adapters=[~/a/one.safetensors:0.8,/b/two]", "adapters=[one.safetensors:0.8,two]"),
        ("prompts=['a dog / cat']", "prompts=['a dog / cat']"),
        ('prompts=["/b/c"]', 'prompts=["c"]'),
        (r"model.path=C:\models\sd,lr=1", "model.path=sd,lr=1"),
        ("model.path=org/name", "model.path=org/name"),
        ("subject.photos=/a/dog/", "subject.photos=dog/"),
    ],
)
def test_paths_of_a_machine_stand_in_no_name(overrides, named):
    assert without_places(overrides) == named


def test_a_sweep_that_has_begun_keeps_its_names(tmp_path):
    text = "lr=1,photos.root=/data"
    assert run_folder(text, str(tmp_path)) == "lr=1"
    (tmp_path / "sweep.json").write_text('{"jobs": [{"folder": "lr=1,photos.root=-data"}]}')
    assert run_folder(text, str(tmp_path)) == "lr=1,photos.root=-data"
    assert run_folder("lr=2,photos.root=/data", str(tmp_path)) == "lr=2"


def test_drawings_of_two_files_of_one_name_have_folders_of_their_own():
    a, b = (drawing(f"adapters=[/{folder}/lora.safetensors]") for folder in "ab")
    assert a != b and "-a-" not in a and a.startswith("adapters=-lora.safetensors-")


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


@pytest.mark.parametrize(
    ("photos", "name"),
    [
        ("/home/me/my dog!", "my-dog"),
        ("photos/rex/", "rex"),
        ("/", "folder"),
        ("/photos/כלב", "folder"),
        ("null", "folder"),
        ("???", "folder"),
    ],
)
def test_a_subject_of_a_folder_has_its_name(photos, name):
    assert OmegaConf.create(f"name: ${{name_of_photos:}}\nphotos: {photos}").name == name
