"""Grids and films of finished runs: what is drawn, kept, labelled and refused."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from safetensors.torch import load_file, save_file

from dreambooth.cli.configuration.configs import CONF
from dreambooth.cli.drawing import films
from dreambooth.cli.drawing.axes import quote_axes
from dreambooth.cli.drawing.generate import generate
from dreambooth.cli.drawing.show import main as show
from dreambooth.cli.refusals.command_checks import check_generate
from dreambooth.errors import UserError
from dreambooth.files import file_hash
from dreambooth.png_text import read_text
from dreambooth.records import read_record, write_record
from dreambooth.study.finished.run_weights import RunWeights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lora(spine, tmp_path_factory) -> Path:
    """A LoRA run that kept its checkpoints of steps 1 and 2, and the average of its weights."""
    more = ("method=lora", "lr=1e-1", "checkpoint.every_n_steps=1", "ema_decay=0.9")
    return spine.run(tmp_path_factory.mktemp("lora") / "method=lora", *more)


@pytest.fixture
def draws(tmp_path, monkeypatch):
    """`draws(run, "grid.x=seed=0,1")`: what generate.py does; returns the folder's images."""
    loaded = []
    load = RunWeights.load
    monkeypatch.setattr(RunWeights, "load", lambda self, *a: loaded.append(self) or load(self, *a))

    def call(run: Path | None, *overrides: str, folder: str = "out") -> dict[str, np.ndarray]:
        own = [
            "run=null" if run is None else f"run='{run}'",
            f"output_dir='{tmp_path / folder}'",
            "num_inference_steps=2",
        ]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("generate", [*own, *quote_axes(overrides)])
        check_generate(cfg)
        assert generate(cfg) == 0
        return {path.name: pixels(path) for path in (tmp_path / folder / "images").glob("*.png")}

    call.loaded = loaded
    return call


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "grid.csv", newline="") as file:
        return list(csv.DictReader(file))


def apart(a: np.ndarray, b: np.ndarray) -> int:
    """The largest difference, in grey levels."""
    return abs(a - b).max()


def test_every_combination_is_drawn_once_and_kept(draws, lora, tmp_path, capsys):
    axes = ("grid.x=guidance_scale=1.5,7.5", "grid.y=scheduler=ddim,euler", "grid.z=seed=0,3")
    images = draws(lora, *axes)
    table = rows(tmp_path / "out")
    assert len(images) == 8 and {row["file"] for row in table} == set(images)
    expected = [
        (f"grid_0{z}_seed-{seed}.png", str(seed), scheduler, guidance)
        for z, seed in enumerate((0, 3))
        for scheduler in ("DDIMScheduler", "EulerDiscreteScheduler")
        for guidance in ("1.5", "7.5")
    ]
    names = ("sheet", "seed", "scheduler", "guidance_scale")
    assert [tuple(row[name] for name in names) for row in table] == expected
    with Image.open(tmp_path / "out" / "grid_01_seed-3.png") as sheet:
        first = sheet.crop(
            (sheet.width - 2 * 196, sheet.height - 2 * 196, sheet.width, sheet.height)
        )
        shown = np.asarray(first.crop((96, 96, 97, 97)))[0, 0].astype(int)
    assert (shown == images[table[4]["file"]][8, 8]).all()
    capsys.readouterr()
    draws(lora, *axes)
    assert len(draws.loaded) == 1 and "0 of 8 images drawn" in capsys.readouterr().out
    smaller = draws(lora, *axes[:2], "grid.z=seed=0")
    assert len(draws.loaded) == 1 and len(smaller) == 4  # the others are removed


def test_a_picture_is_the_same_wherever_it_is_drawn(draws, scored, evaluate, tmp_path):
    """train.py, evaluate.py, generate.py and its grids: equal bytes, or where batches differ within
    one grey level."""
    prompts = [
        row["prompt"] for row in manifest(scored / "evaluation/quick") if row["set"] == "subject"
    ]
    once = list(dict.fromkeys(prompts))
    text = ",".join(f"'{prompt}'" for prompt in [*once, "a {subject}"])
    images = draws(scored, f"prompts=[{text}]", "seeds=[0,1]")
    again = {(r["prompt"], r["seed"]): r["file"] for r in rows(tmp_path / "out")}
    folders = [scored / "samples/final", scored / "evaluation/quick"]
    for folder in folders:
        for row in manifest(folder):
            if row["set"] == "subject":
                other = tmp_path / "out/images" / again[row["prompt"], row["seed"]]
                assert apart(pixels(folder / row["file"]), pixels(other)) <= 1
                one, two = (
                    json.loads(read_text(p)["dreambooth"]) for p in (folder / row["file"], other)
                )
                assert one == two  # and both say so
    own = tmp_path / scored.name
    shutil.copytree(scored, own)
    evaluate(f"run='{own}'", "evaluation=quick", "evaluation.name=again")
    for file in (row["file"] for row in manifest(folders[1])):
        paths = [
            run / "evaluation" / name / file for run, name in ((scored, "quick"), (own, "again"))
        ]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    axes = ("grid.x=seed=0,1", f"grid.y=prompt={text}")
    assert draws(scored, *axes, folder="grid").keys() == images.keys()
    for name in images:
        paths = [tmp_path / folder / "images" / name for folder in ("out", "grid")]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    one_by_one = draws(scored, *axes, "batch_size=1", folder="alone")
    assert all(apart(images[name], one_by_one[name]) <= 1 for name in images)


def test_a_strangers_record_imports_nothing_but_peft(scored, draws, tmp_path, monkeypatch):
    run = Path(shutil.copytree(scored, tmp_path / "stranger"))
    (run / "evil.py").write_text("raise SystemExit('ran')")
    record = read_record(run / "run.json")
    record["config"]["method"]["adapter"] = {"_target_": "stranger.evil.LoraConfig"}
    write_record(run / "run.json", record)
    monkeypatch.syspath_prepend(str(tmp_path))
    for more in (("grid.x=step=0,1",), ("adapter_weight=0.5",)):
        with pytest.raises(UserError, match="only classes of PEFT are imported for a record"):
            draws(run, *more)
    assert draws(run, "seeds=[0]", folder="whole")  # what was exported needs no class


def manifest(folder: Path) -> list[dict[str, str]]:
    with open(folder / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_steps_and_adapter_weights(draws, lora, tmp_path):
    images = draws(lora, "grid.x=step=0,1,2,null", "seeds=[0]")
    before, one, two, exported = (images[row["file"]] for row in rows(tmp_path / "out"))
    assert apart(two, exported) == 0 and apart(one, two) > 0 and apart(before, one) > 0
    images = draws(lora, "grid.x=adapter_weight=0,0.5,1", "seeds=[0]", folder="weights")
    zero, half, whole = (images[row["file"]] for row in rows(tmp_path / "weights"))
    assert apart(zero, before) <= 1 and apart(whole, exported) == 0
    assert apart(half, zero) > 0 and apart(half, whole) > 0


def test_runs_stand_side_by_side_with_any_prompts(draws, lora, scored, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text('a {subject}, "asleep" a/b\n\na {class_noun} 🦄 שלום\n' + "long " * 60)
    axes = (f"grid.x=run='{lora}','{scored}'", "grid.y=prompt", f"prompts_file='{file}'")
    images = draws(lora, *axes)
    table = rows(tmp_path / "out")
    assert len(images) == 6 and len(draws.loaded) == 2
    assert [Path(row["run"]) for row in table] == [lora, scored] * 3
    assert [row["prompt"] for row in table[1::2]][:2] == [
        'a sks dog, "asleep" a/b',
        "a dog 🦄 שלום",
    ]
    assert all(
        json.loads(read_text(tmp_path / "out/images" / name)["dreambooth"]) for name in images
    )


def test_what_cannot_be_drawn_is_one_sentence(draws, lora, scored, tmp_path):
    refused = {
        ("grid.x=step=1,7",): "step=7 has no checkpoint in .*, which has 0, 1, 2",
        ("grid.x=scheduler=ddim,dim",): "scheduler=dim does not exist: did you mean scheduler=ddim",
        ("grid.x=num_inference_steps=2,2000",): "num_inference_steps=2000 .* cannot work",
        ("grid.x=run=typo",): "run=typo is not a folder",
        ("grid.x=prompt='a {dog}'",): "has braces left over",
        ("prompts_file=typo",): "prompts_file=typo cannot be read",
        ("prompts=[a,b]", "grid.x=seed", "grid.y=step=0", "grid.z=guidance_scale=1"): "give one",
        ("morph.keyframes=2", "grid.x=seed"): "ask for one of them",
        ("morph.keyframes=1",): "stands still",
        ("morph.keyframes=9", "morph.seconds=0.1"): "are 3 frames, fewer than the 9",
        ("morph.keyframes=2", "morph.fps=60"): "too fast for a GIF",
        ("morph.keyframes=2", "prompts=[a,b]"): "move between them with morph.prompts",
    }
    for overrides, words in refused.items():
        with pytest.raises(UserError, match=words):
            draws(lora, *overrides)
    with pytest.raises(UserError, match="adapter_weight needs a run with an adapter"):
        draws(scored, "adapter_weight=0.5")
    assert not draws.loaded and not (tmp_path / "out").exists()


def test_a_film_is_resumed_and_not_drawn_twice(draws, lora, tmp_path, monkeypatch, capsys):
    film = ("morph.keyframes=2", "morph.seconds=0.5", "morph.fps=12", "morph.size=32")
    film += ("morph.formats=[gif]", "batch_size=2", "seeds=[5]")
    drawn, original = [], films.draw_frames

    def frames(model, morph, numbers, sampling):
        drawn.append(list(numbers))
        if drawn == [[0, 1], [2, 3]]:
            raise KeyboardInterrupt
        return original(model, morph, numbers, sampling)

    monkeypatch.setattr(films, "draw_frames", frames)
    with pytest.raises(KeyboardInterrupt):
        draws(lora, *film)
    draws(lora, *film)
    assert drawn == [[0, 1], [2, 3], [2, 3], [4, 5]] and not (tmp_path / "out/frames").exists()
    with Image.open(tmp_path / "out/morph.gif") as gif:
        assert (gif.n_frames, gif.size) == (6, (32, 32))
    draws(lora, *film)
    assert len(drawn) == 4 and "whole already" in capsys.readouterr().out
    assert show([str(tmp_path / "out/morph.gif")]) == 0
    assert "2 keyframes, 0.5 s at 12 frames a second" in capsys.readouterr().out


def test_show_prints_the_command_that_draws_the_picture_again(draws, lora, tmp_path, capsys):
    odd = ("step=1", "adapter_weight=0.5", "negative_prompt='a \"b\", c'", "scheduler=euler_a")
    images = draws(lora, *odd, "seeds=[7]")
    capsys.readouterr()
    path = tmp_path / "out/images" / next(iter(images))
    assert show([str(path)]) == 0
    shown = capsys.readouterr().out
    for words in ("a sks dog", "EulerAncestralDiscreteScheduler", "training step   1", "0.5"):
        assert words in shown
    line = next(line for line in shown.splitlines() if "generate.py" in line)
    program, script, _, *overrides = shlex.split(line)  # the picture lies in no run's folder
    assert (program, script) == ("python", "generate.py") and "is the folder of the run" in shown
    again = draws(lora, *overrides, folder="again")
    assert len(again) == 1 and apart(next(iter(again.values())), images[path.name]) == 0
    final = next((lora / "samples/final").glob("*.png"))
    assert show([str(final)]) == 0 and f"run='{lora}'" in capsys.readouterr().out


def test_show_refuses_what_says_nothing(tmp_path, capsys):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    for name, words in (("plain.png", "does not say what drew it"), ("typo.png", "does not exist")):
        assert show([str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert show([]) == 2 and show(["--help"]) == 0


@pytest.fixture(scope="module")
def made(lora, tmp_path_factory) -> dict[str, Path]:
    """What others made: the run's own adapter, and an embedding."""
    folder = tmp_path_factory.mktemp("made")
    file = folder / "theirs.safetensors"
    file.write_bytes((lora / "model" / "pytorch_lora_weights.safetensors").read_bytes())
    save_file({"<x>": torch.ones(32)}, folder / "x.safetensors")
    return {"adapter": file, "embedding": folder / "x.safetensors"}


@pytest.fixture
def draws_plain(draws, spine):
    """`draws_plain("adapters=[...]")`: pictures of the base model, with what others made."""

    def call(*overrides: str, folder: str = "plain") -> dict[str, np.ndarray]:
        own = ["model=pocket", f"model.path='{spine.model}'", "model.resolution=16"]
        own += ["model.sampling.batch_size=1", "seeds=[0]"]
        return draws(None, *own, *overrides, folder=folder)

    return call


def test_a_base_model_draws_with_what_others_made(draws_plain, draws, lora, made, tmp_path, capsys):
    """As the run whose adapter it is; embeddings and adapters together, with their weights."""
    prompt = "prompts=['a sks dog']"
    own = draws(lora, prompt, "seeds=[0]")
    added = f"adapters=['{made['adapter']}']"
    theirs = draws_plain(added, prompt, "guidance_scale=3")
    assert apart(*own.values(), *theirs.values()) <= 1
    axis = ("grid.x=adapter_weight=0,1", prompt, "guidance_scale=3")
    half = f"adapters=['{made['adapter']}:0.5','{made['adapter']}:0.5']"
    images = draws_plain(half, *axis, folder="scaled")
    zero, one = (images[row["file"]] for row in rows(tmp_path / "scaled"))
    plain = draws_plain(prompt, "guidance_scale=3", folder="none")
    assert apart(one, *theirs.values()) <= 1 and apart(zero, *plain.values()) == 0
    assert apart(zero, one) > 0
    both = draws_plain(added, f"embeddings=['{made['embedding']}']", folder="both")
    capsys.readouterr()
    path = tmp_path / "both/images" / next(iter(both))
    record = json.loads(read_text(path)["dreambooth"])
    assert record["prompt"] == "a <x>" and record["adapters"][0]["name"] == "theirs"
    assert record["adapters"][0]["sha256"] == file_hash(made["adapter"])
    assert show([str(path)]) == 0
    shown = capsys.readouterr().out
    for words in ("theirs (weight 1)", "x (<x>)", "model=pocket", "adapters=['theirs:1.0']"):
        assert words in shown


def test_a_run_draws_with_what_others_made(draws, lora, made, tmp_path):
    twice = draws(lora, "adapter_weight=2", "seeds=[0]")
    once = draws(lora, f"adapters=['{made['adapter']}']", "seeds=[0]", folder="more")
    assert apart(*twice.values(), *once.values()) <= 1


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["loha", "oft", "dora"])
def test_adapters_of_other_kinds_are_drawn_with_and_gone_on_from(
    draws_plain, draws, spine, tmp_path, method
):
    """A run's folder, and its adapters as PEFT has them, with `unet/` and `text_encoder/`."""
    more = (f"method={method}", "train_text_encoder=true", "lr=1e-1", "ppl=false")
    theirs = spine.run(tmp_path / "theirs", *more, "export.layouts=[diffusers,peft]")
    prompt = ("prompts=['a sks dog']", "guidance_scale=3")
    (expected,) = draws(theirs, *prompt, "seeds=[0]").values()
    plain = draws_plain(*prompt, folder="plain")
    assert apart(expected, *plain.values()) > 1
    for place in (theirs, theirs / "exports/peft"):
        added = draws_plain(*prompt, f"adapters=['{place}']", folder=place.name)
        assert apart(expected, *added.values()) <= 1
    own = spine.run(tmp_path / "own", *more, f"init_adapter='{theirs}'")
    before = draws(own, *prompt, "seeds=[0]", "step=0", folder="before")
    assert apart(expected, *before.values()) <= 1
    assert apart(expected, *draws(own, *prompt, "seeds=[0]", folder="after").values()) > 1


def test_what_a_base_model_cannot_draw_is_one_sentence(draws_plain, draws, lora, made, tmp_path):
    wide = tmp_path / "wide.safetensors"
    state = load_file(made["adapter"])
    save_file({k: torch.zeros(*v.shape[:-1], 48) for k, v in state.items()}, wide)
    for words, overrides in {
        r"the prompt 'a \{subject\}' names the subject: give": (),
        "a base model has no steps": ("step=1", "subject_phrase=dog"),
        "give adapters=": ("adapter_weight=2", "subject_phrase=dog"),
        "the weight big of .* is no number": (f"adapters=['{made['adapter']}:big']",),
        "there is no adapter at": ("adapters=[typo]", "subject_phrase=dog"),
        "there is no textual inversion at": ("embeddings=[typo]",),
        "tensors of .*wide.safetensors fit the model": (f"adapters=['{wide}']", "prompts=[a]"),
    }.items():
        with pytest.raises(UserError, match=words):
            draws_plain(*overrides)
    with pytest.raises(UserError, match="Say what draws"):
        draws(None)
    with pytest.raises(UserError, match="Say what draws"):
        draws_plain(f"run='{lora}'")
    with pytest.raises(UserError, match="a run has words of its own"):
        draws(lora, "subject_phrase=dog")


@pytest.mark.thorough
def test_a_fine_tune_goes_on_from_an_adapter(draws, spine, lora, tmp_path):
    """Before its first step it draws what that adapter does; its facts name the content."""
    start = f"init_adapter='{lora / 'model'}'"
    out = spine.run(tmp_path / "more", "method=lora", "lr=1e-1", start)
    theirs = draws(lora, "seeds=[0]", folder="theirs")
    before = draws(out, "seeds=[0]", "step=0", folder="before")
    after = draws(out, "seeds=[0]", folder="after")
    assert apart(*before.values(), *theirs.values()) <= 1
    assert apart(*after.values(), *theirs.values()) > 1
    (record,) = (out / "checkpoints/phase-0").glob("*.json")
    facts = json.loads(record.read_text())["facts"]
    assert facts["init_adapter"] == file_hash(lora / "model/pytorch_lora_weights.safetensors")
    with pytest.raises(UserError, match="needs a method that trains adapters"):
        spine.run(tmp_path / "full", start)
