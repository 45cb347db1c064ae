"""`dreambooth extract`, `merge` and `tokens` on the tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from dreambooth.cli.configuration.configs import CONF
from dreambooth.cli.extract import extract
from dreambooth.cli.merge import merge
from dreambooth.cli.refusals.command_checks import check_extract, check_merge, check_tokens
from dreambooth.cli.tokens import tokens
from dreambooth.errors import UserError
from dreambooth.files import read_csv
from dreambooth.locks import held
from dreambooth.model.stable_diffusion import StableDiffusion

pytestmark = pytest.mark.slow

COMMANDS = {
    "extract": (extract, check_extract),
    "merge": (merge, check_merge),
    "tokens": (tokens, check_tokens),
}


def call(command: str, *overrides: str) -> int:
    work, check = COMMANDS[command]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(command, list(overrides))
    check(cfg)
    return work(cfg)


def test_what_is_extracted_merges_into_the_fine_tune(scored, spine, tmp_path, capsys):
    """At full rank, within what no LoRA holds; scored beside the full model."""
    lora, whole = tmp_path / "lora", tmp_path / "whole"
    own = ("evaluation=quick", "evaluation.class_images=3", f"cache_dir='{spine.cache}'")
    before = (scored / "evaluation/quick/scores.csv").read_bytes()
    assert call("extract", f"run='{scored}'", "rank=128", f"output_dir='{lora}'", *own) == 0
    printed = capsys.readouterr().out
    assert "Rank 128: relative error 0.000 over" in printed and "LoRA of rank 128" in printed
    full, ours = read_csv(lora / "comparison.csv")
    summary = json.loads((scored / "evaluation/quick/metrics.json").read_text())["scores"]
    variants = [name for name in summary if not name.startswith("real_ref.")]
    assert [*full] == ["model", "relative_error", "bytes", *variants]
    assert (scored / "evaluation/quick/scores.csv").read_bytes() == before  # nothing drawn anew
    for variant in variants:
        assert float(full[variant]) == pytest.approx(summary[variant]["mean"])
        assert float(ours[variant]) == pytest.approx(summary[variant]["mean"], abs=0.05)
    assert 0 < float(ours["relative_error"]) < 0.5 and int(ours["bytes"]) > 1e5
    rows = read_csv(lora / "extraction.csv")
    assert {row["rank"] for row in rows} == {"128", "0"}
    plain = ("model=pocket", f"model.path='{spine.model}'", f"output_dir='{whole}'")
    assert call("merge", *plain, f"adapters=['{lora}']") == 0
    models = [StableDiffusion.from_pretrained(str(path)) for path in (whole, scored / "model")]
    ours, theirs = (model.base_state("unet") for model in models)
    for name in (row["layer"] for row in rows if row["rank"] == "128"):
        difference = (ours[f"{name}.weight"] - theirs[f"{name}.weight"]).abs().max()
        assert difference < 1e-5, name


def test_nothing_is_extracted_into_a_run_that_another_command_is_at_work_in(scored):
    with held(scored), pytest.raises(UserError, match="is in use: .* evaluation=none"):
        call("extract", f"run='{scored}'")


def test_what_cannot_be_extracted_or_merged_is_one_sentence(scored, spine, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    plain = ("model=pocket", f"model.path='{spine.model}'")
    for words, command, overrides in (
        ("Say what was fine-tuned", "extract", ()),
        ("needs its base model", "extract", (f"tuned='{scored / 'model'}'",)),
        ("rank=0 is not usable", "extract", ("rank=0",)),
        ("do not differ in any", "extract", (*plain, f"tuned='{spine.model}'")),
        ("needs run=DIR, which knows", "extract", (*plain, "tuned=x", "evaluation=quick")),
        ("holds something other", "merge", (*plain, f"output_dir='{tmp_path / 'full'}'")),
        ("Say what draws", "merge", (f"output_dir='{tmp_path / 'x'}'",)),
    ):
        with pytest.raises(UserError, match=words):
            call(command, *overrides)
    run = Path(shutil.copytree(scored, tmp_path / "run"))
    path = run / "model/unet/diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match="is not what the run exported"):
        call("extract", f"run='{run}'")


def test_words_are_ranked_with_a_table_and_a_sheet(spine, encoders_dir, tmp_path, capsys):
    own = (f"model.path='{spine.model}'", "model.resolution=16", f"cache_dir='{spine.cache}'")
    more = (f"encoders_dir='{encoders_dir}'", "num_inference_steps=2", "images=2", "drawn=2")
    words = "candidates=[sks,zwx,red]"
    assert call("tokens", *own, *more, words, f"output_dir='{tmp_path}'") == 0
    rows = read_csv(tmp_path / "tokens.csv")
    assert {row["word"] for row in rows} == {"sks", "zwx", "red"}
    assert [bool(row["rank"]) for row in rows] == [True, True, False]
    assert float(rows[0]["rank"]) <= float(rows[1]["rank"])
    shifts = [float(row["prediction_shift"]) for row in rows]
    assert max(shifts[:2]) <= shifts[2] and min(shifts) > 0
    with Image.open(tmp_path / "tokens.png") as sheet:
        assert sheet.height > 3 * 128
    assert len(list((tmp_path / "images").glob("*.png"))) == 2 * 2 + 4
    assert "2 of 3 words" in capsys.readouterr().out


def test_words_of_a_byte_level_vocabulary_are_ranked(
    tiny_flux2_model_dir, encoders_dir, tmp_path, capsys
):
    """Qwen's marks a space before a word where CLIP's marks a word's end."""
    own = ("model=flux2_klein", f"model.path='{tiny_flux2_model_dir}'", "model.resolution=16")
    own += ("model.max_sequence_length=32", f"cache_dir='{tmp_path / 'cache'}'", "encoders=pocket")
    more = (f"encoders_dir='{encoders_dir}'", "num_inference_steps=1", "images=2", "drawn=1")
    assert call("tokens", *own, *more, f"output_dir='{tmp_path}'") == 0
    rows = read_csv(tmp_path / "tokens.csv")
    pieces = ("fro", "frog", "frogs", "qzv")  # the last of QWEN_WORDS, as their merges grow
    assert sorted((row["word"], row["tokens"]) for row in rows) == [(p, "1") for p in pieces]
    assert "1 of 4 words" in capsys.readouterr().out


def test_a_vocabulary_without_rare_words_is_one_sentence_before_a_picture(
    spine, encoders_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr("dreambooth.cli.tokens.rare", lambda tokenizer, path: [])
    own = (f"model.path='{spine.model}'", "model.resolution=16", f"cache_dir='{spine.cache}'")
    rare = "no word to try: none of .* is a rare word of three to five letters.*candidates="
    with pytest.raises(UserError, match=rare):
        call("tokens", *own, f"encoders_dir='{encoders_dir}'", f"output_dir='{tmp_path}'")
    assert not list(tmp_path.iterdir())


def test_networks_that_are_not_there_are_asked_for_by_this_commands_keys(spine, tmp_path):
    own = (f"model.path='{spine.model}'", "encoders=canonical", f"output_dir='{tmp_path}'")
    with pytest.raises(UserError, match="pass encoders_dir=DIR.* encoders=pocket takes"):
        call("tokens", *own, f"cache_dir='{tmp_path}'")
