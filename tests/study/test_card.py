"""The card of a run says what it is, and goes to the hub with the model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects

from dreambooth.cli.commands import train
from dreambooth.cli.configuration.configs import CONF
from dreambooth.errors import UserError
from dreambooth.study.card import LICENCES, _training_prompts, _verified, write_card
from dreambooth.study.card_settings import _batch, named
from dreambooth.study.push import push, require_token

pytestmark = pytest.mark.slow


def test_the_card_has_scores_under_their_variants_and_pictures_that_exist(scored):
    path = write_card(scored)
    card = ModelCard.load(path)
    assert card.data.instance_prompt == "a sks dog" and card.data.pipeline_tag == "text-to-image"
    metrics = json.loads((scored / "evaluation/quick/metrics.json").read_text())["scores"]
    variants = {name for name in metrics if not name.startswith("real_ref.")}
    assert card.data.eval_results is not None
    assert {result.metric_type for result in card.data.eval_results} == variants
    assert all(f"`{variant}`" in card.content for variant in variants)
    pictures = re.findall(r"\]\((samples/[^)]*)\)", card.content)
    assert pictures and all((scored / picture).is_file() for picture in pictures)
    assert 'from_pretrained("model"' in card.content and str(scored) not in card.content
    assert "## Licence" in card.content and "## Verified" not in card.content
    fine = {"error": None, "mean": 0.01, "tensors": 5, "loaded": 5}
    bad = {"error": "it cannot be loaded", "mean": None, "tensors": 0, "loaded": 0}
    text = _verified({"diffusers": fine, "kohya": bad})
    assert "| diffusers | draws the same picture | 0.010 | 5 of 5 |" in text
    assert "| kohya | it cannot be loaded |  |  |" in text
    assert "| what trains | unet: full |" in card.content
    assert "| prior preservation | weight 1.0, 2 class images |" in card.content


def test_the_card_names_no_folder_of_a_machine(scored, spine):
    """Neither in its text nor in the command that made the run."""
    hydra = scored / ".hydra"
    hydra.mkdir(exist_ok=True)
    words = ["subject.photos=/home/me/photos/dog", f"model.path='{spine.model}'", "lr=1e-3"]
    (hydra / "overrides.yaml").write_text(yaml.safe_dump([*words, "cache_dir=/c", "a=[/x/y,~/z]"]))
    try:
        text = write_card(scored).read_text()
    finally:
        (hydra / "overrides.yaml").unlink()
    assert f"subject.photos=dog \"model.path='{spine.model.name}'\" lr=1e-3" in text
    assert "/home/me" not in text and "/c" not in text.split("| command |")[1].splitlines()[0]
    assert str(spine.model.parent) not in text and f"from `{spine.model.name}`" in text


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("photos.root=/data/dreambooth/dataset/", "photos.root=dataset"),
        ("embeddings=[/a/b.safetensors:<toy>,'~/c d/e.safetensors']", None),
        ("prompts=['a dog / a cat',https://x.org/a]", "prompts=['a dog / a cat',https://x.org/a]"),
        ("evaluation.encoders_dir='/my encoders/all'", "evaluation.encoders_dir='all'"),
        (r"model.path=C:\\Users\\me\\sd15", "model.path=sd15"),
        ("run=outputs/2026/dog", "run=outputs/2026/dog"),
    ],
)
def test_absolute_paths_are_their_last_names(override, shown):
    assert named(override) == (shown or "embeddings=[b.safetensors:<toy>,'e.safetensors']")


def test_the_card_tells_the_prompts_of_the_photos():
    token = {"templates": ["a photo of {subject}", "my {subject}"]}
    phases = [{"unet": "frozen", "text_encoder": "token"}]
    method = {"token": token, "phases": phases}
    config = {"instance_prompt": "a <toy>", "subject_phrase": "<toy>", "method": method}
    assert _training_prompts(config) == "2 prompts such as `a photo of <toy>`"
    phases.append({"unet": "full", "text_encoder": "frozen"})
    learned = "`a <toy>`, and while the word was learned with 2 prompts such as `a photo of <toy>`"
    assert _training_prompts(config) == learned
    method["token"] = None
    assert _training_prompts(config) == "`a <toy>`"


def test_every_base_model_has_its_licence():
    """As the hub names it, or a name of its own."""
    for file in sorted((CONF / "model").glob("*.yaml")):
        assert yaml.safe_load(file.read_text())["path"] in LICENCES, file.stem


class FakeApi:
    """Records what would be sent, picked by the hub's own filter."""

    def __init__(self) -> None:
        self.made: list[tuple[str, dict[str, Any]]] = []
        self.sent: dict[str, Path] = {}

    def create_repo(self, repo: str, **options: Any) -> str:
        self.made.append((repo, options))
        return f"https://huggingface.co/{repo}"

    def upload_folder(self, repo_id: str, folder_path: Path, **options: Any) -> None:
        assert repo_id == self.made[0][0] and options.pop("commit_message")
        files = [p for p in sorted(folder_path.rglob("*")) if p.is_file()]
        names = [p.relative_to(folder_path).as_posix() for p in files]
        kept = list(filter_repo_objects(names, **options))
        assert kept and not self.sent.keys() & {*kept}
        self.sent |= {name: folder_path / name for name in kept}


def test_the_model_goes_to_the_top_of_a_private_repository(scored):
    api = FakeApi()
    assert push(scored, "me/dog", api) == "https://huggingface.co/me/dog"
    assert api.made == [("me/dog", {"private": True, "exist_ok": True})]
    assert api.sent["model_index.json"] == scored / "model/model_index.json"
    assert api.sent["README.md"] == scored / "README.md"  # where loaders and readers look
    own = [p.relative_to(scored / "model") for p in (scored / "model").rglob("*") if p.is_file()]
    beside = {*api.sent} - {path.as_posix() for path in own}
    assert beside == {"README.md", "samples/final.png"} | names(scored, "samples/final")


def names(run: Path, folder: str) -> set[str]:
    return {path.relative_to(run).as_posix() for path in (run / folder).iterdir()}


@pytest.mark.thorough
def test_the_command_uploads_what_it_exported_and_nothing_if_not_asked(
    spine, tmp_path, monkeypatch
):
    apis: list[FakeApi] = []
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: apis.append(FakeApi()) or apis[-1])
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    out, more = tmp_path / "run", ("method=lora", "max_steps=1", "ppl=false")
    assert train(spine.compose(tmp_path / "off", *more)) == 0 and not apis
    layouts = "export.layouts=[diffusers,kohya,peft]"
    assert train(spine.compose(out, *more, layouts, "export.push_to_hub=me/dog")) == 0
    (api,) = apis
    again = [*more, layouts, "export.push_to_hub=me/dog"]
    assert train(spine.compose(out, *again)) == 0 and {*apis[1].sent} == {*api.sent}
    file = out / "exports/kohya/photos.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert train(spine.compose(out, *again)) == 0 and file.read_bytes() == whole
    assert {*api.sent} == names(out, "samples/final") | {
        "README.md",
        "exports/kohya/photos.safetensors",
        "exports/peft/unet/adapter_config.json",
        "exports/peft/unet/adapter_model.safetensors",
        "pytorch_lora_weights.safetensors",
        "samples/final.png",
    }


def test_what_the_hub_refuses_is_one_sentence(scored):
    class Refusing(FakeApi):
        def create_repo(self, repo: str, **options: Any) -> str:
            raise OSError("403 Forbidden")

    with pytest.raises(UserError, match="me/dog was not uploaded .403 Forbidden.; the run is"):
        push(scored, "me/dog", Refusing())


def test_no_token_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="needs a token of the model hub"):
        require_token("me/dog")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    require_token("me/dog")
    for name in ("dog", "a/b/c", "me/d og"):
        with pytest.raises(UserError, match="no ORG/NAME"):
            require_token(name)


def test_a_batch_is_counted_in_words():
    config = {"batch_size": 1, "accumulate": 2, "prior": {"batch_size": 4}}
    assert _batch(config, False) == "1 photo, 2 micro-batches in a step"
    assert _batch({**config, "batch_size": 4, "accumulate": 1}, True) == (
        "4 photos and 4 for the prior loss, 1 micro-batch in a step"
    )
