"""Folder names of a sweep's runs."""

from __future__ import annotations

from dreambooth.cli.main import _slug


def test_long_overrides_that_begin_alike_keep_folders_of_their_own():
    long = "model.path=" + "x" * 300
    assert _slug(f"{long},subject=dog") != _slug(f"{long},subject=cat")
    assert len(_slug(f"{long},subject=dog")) <= 200 and _slug("lr=1,ppl=true") == "lr=1,ppl=true"
