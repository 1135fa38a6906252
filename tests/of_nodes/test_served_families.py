"""What is served is one list of rows: the refusal of other models and the README name all of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.host
README = Path(__file__).resolve().parents[2] / "README.md"


def served() -> list[str]:
    from comfyui_rival.nodes.host import families

    return re.split(", | or ", families.served())


def rows() -> dict:
    from comfyui_rival.nodes.host.families import FAMILIES

    return FAMILIES


def test_another_family_is_refused_by_its_name_and_told_what_is_served():
    import tiny
    from comfyui_rival.nodes import host
    from comfyui_rival.rival_core.errors import RivalError

    model = tiny.build("sd15")
    config = model.model.model_config
    config.__class__ = type("PixArtSigma", (type(config),), {})
    with pytest.raises(RivalError) as said:
        host.model_card(model)
    names = f"{', '.join(served()[:-1])} or {served()[-1]}"
    assert str(said.value) == f"PixArtSigma models are not supported: load one of {names}"


def test_each_kind_that_this_comfyui_has_is_named_once():
    from comfy import supported_models

    here = {row.called for name, row in rows().items() if hasattr(supported_models, name)}
    assert sorted(served()) == sorted(here)
    assert {"SD1.x", "SDXL", "Flux", "Qwen-Image"} <= here


def test_a_row_that_is_added_is_named(monkeypatch):
    from comfy import supported_models

    row = rows()["SD15"]
    monkeypatch.setitem(rows(), "Newest", row._replace(called="The Newest"))
    assert "The Newest" not in served()
    monkeypatch.setattr(supported_models, "Newest", object, raising=False)
    assert served()[-1] == "The Newest"


def test_the_readme_names_them_all():
    models = (
        README.read_text(encoding="utf-8").partition("## Supported models")[2].partition("\n## ")[0]
    )
    assert [row.called for row in rows().values() if row.called not in models] == []
