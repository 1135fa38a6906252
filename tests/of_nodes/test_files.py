"""RIVAL Save Chain and RIVAL Load Chain: files where ComfyUI keeps them, and nowhere else."""

from __future__ import annotations

import dataclasses
import os

import graph
import pytest
import torch
from chain_files import same
from composing import chain_of, model_of
from composing import prompts as prompts_of
from saving import choices, files_of, load, own_folders, refuses, save

pytestmark = pytest.mark.host


@pytest.fixture
def folders(tmp_path, monkeypatch):
    return own_folders(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "family, features",
    [("sd15", "live"), ("sd15", "cached"), ("sdxl", "live"), ("sd15_inpaint", "live")],
)
def test_what_is_sampled_from_a_loaded_chain_is_the_same_bitwise(folders, family, features):
    chain, model = chain_of(family, negative=True), model_of(family)
    loaded = load(save(chain))
    assert same(loaded, chain)
    assert loaded.get_ram_usage() == chain.get_ram_usage() - chain.features.nbytes
    wanted, found = (
        graph.rival_sample(
            graph.patch(model, c, features=features), c, *prompts_of(family).values(), seed=5
        )
        for c in (chain, loaded)
    )
    assert torch.equal(wanted, found)


def test_names_count_up_in_subfolders(folders):
    chain = chain_of()
    for name in ("rival/chain_00001_", "rival/chain_00002_"):
        assert save(chain) == f"{name}.safetensors [output]"
    assert save(chain, "plain") == "plain_00001_.safetensors [output]"
    assert save(chain, "a/b/%width%x%height%") == "a/b/64x64_00001_.safetensors [output]"
    year = save(chain, "%year%/x").split("/")[0]
    assert year.isdigit() and (folders / "output" / year / "x_00001_.safetensors").is_file()


def test_the_list_shows_the_chains_of_both_folders(folders):
    save(chain_of(), "b")
    saved = folders / "output" / "b_00001_.safetensors"
    for place in ("a.safetensors", "sub/deep/c (1).safetensors", "sub/no.txt"):
        target = folders / "input" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(saved.read_bytes())
    (folders / "input" / "lora.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (folders / "temp" / "t.safetensors").write_bytes(saved.read_bytes())
    (folders / "input" / "folder.safetensors").mkdir()
    names = ["a.safetensors", "sub/deep/c (1).safetensors", "b_00001_.safetensors [output]"]
    assert choices() == names
    for name in names:
        assert same(load(name), chain_of())


@pytest.fixture
def links(folders):
    """Links out of the folders, where the host can make them."""
    from comfyui_rival.rival_core.chain import file as chain_file

    secret = folders / "outside" / "secret.safetensors"
    chain_file.save(chain_of(), secret)
    try:
        for name in ("input", "output"):
            (folders / name / "link.safetensors").symlink_to(secret)
            (folders / name / "linked").symlink_to(folders / "outside", target_is_directory=True)
        (folders / "input" / "loop").symlink_to(folders / "input" / "loop")
    except OSError:
        pytest.skip("this system makes no links")
    return folders


OUTSIDE = ["../outside/secret.safetensors", "sub/../../outside/secret.safetensors",
           "../outside/secret.safetensors [output]", "t.safetensors [temp]", ".."]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_leaves_the_folders(folders, name):
    from comfyui_rival.rival_core.chain import file as chain_file

    chain_file.save(chain_of(), folders / "outside" / "secret.safetensors")
    chain_file.save(chain_of(), folders / "temp" / "t.safetensors")
    with refuses("RIVAL Load Chain", "outside the input and output folders"):
        load(name)
    with refuses("RIVAL Load Chain", "outside"):
        load(str(folders / "outside" / "secret.safetensors"))


@pytest.mark.parametrize("name", ["link.safetensors", "linked/secret.safetensors",
                                  "link.safetensors [output]"])  # fmt: skip
def test_no_link_leaves_the_folders(links, name):
    assert choices() == ["(none yet: save or upload a chain)"]
    with refuses("RIVAL Load Chain", "outside"):
        load(name)


@pytest.mark.parametrize("name", ["missing.safetensors", "missing [output]", "", "loop", "a\0b"])
def test_files_that_are_not_there(links, name):
    with refuses("RIVAL Load Chain", "not there|outside"):
        load(name)


@pytest.mark.parametrize("prefix", ["../outside/x", "a/../../outside/x", "", ".", "..", "x\0y",
                                    "../output2/x", "{}/x"])  # fmt: skip
def test_no_prefix_leaves_the_output_folder(folders, prefix):
    from comfyui_rival.nodes import RivalSaveChain

    prefix = prefix.format(folders / "outside")
    with refuses("RIVAL Save Chain", "filename_prefix", "outside"):
        save(chain_of(), prefix)
    assert files_of(folders) == []
    assert "filename_prefix" in RivalSaveChain.validate_inputs(prefix)


@pytest.mark.parametrize("prefix", ["linked/x", "linked/new/x", "linked/../linked/x"])
def test_no_prefix_follows_a_link_out(links, prefix):
    before = files_of(links)
    with refuses("RIVAL Save Chain", "outside"):
        save(chain_of(), prefix)
    assert files_of(links) == before
    assert [p.name for p in (links / "outside").iterdir()] == ["secret.safetensors"]


def test_a_link_named_like_a_date_is_not_followed(links):
    import time

    year = links / "output" / time.strftime("%Y")
    year.symlink_to(links / "outside", target_is_directory=True)
    with refuses("RIVAL Save Chain", "outside"):
        save(chain_of(), "%year%/x")
    assert len(list((links / "outside").iterdir())) == 1


@pytest.mark.parametrize("prefix", ["taken/x", "a" * 300, "a" * 250, "a/" * 2500 + "b"])
def test_places_where_no_file_can_be(folders, prefix):
    (folders / "output" / "taken").write_bytes(b"a file")
    with refuses("RIVAL Save Chain", "choose (a shorter|another) name") as refused:
        save(chain_of(), prefix)
    assert len(str(refused.value)) < 400
    assert files_of(folders) == ["output/taken"]


def test_what_cannot_run_is_refused_before_it_runs(folders):
    from comfyui_rival.nodes import RivalLoadChain, RivalSaveChain

    assert "not there" in RivalLoadChain.validate_inputs("missing.safetensors")
    assert "outside" in RivalLoadChain.validate_inputs("../x")
    assert RivalLoadChain.validate_inputs(save(chain_of())) is True
    assert RivalSaveChain.validate_inputs("rival/chain") is True
    assert RivalLoadChain.validate_inputs() is RivalSaveChain.validate_inputs() is True  # linked


def test_another_content_under_the_same_name_is_loaded_anew(folders):
    from comfyui_rival.nodes import RivalLoadChain

    name = save(chain_of())
    before, path = RivalLoadChain.fingerprint_inputs(name), folders / "output/rival"
    assert RivalLoadChain.fingerprint_inputs(name) == before
    other = path / save(chain_of(seed=1)).split("/")[1].removesuffix(" [output]")
    os.replace(other, path / "chain_00001_.safetensors")
    assert RivalLoadChain.fingerprint_inputs(name) != before


def test_loading_tells_what_the_chain_is(folders, caplog):
    from comfyui_rival.nodes import RivalLoadChain

    shown = RivalLoadChain.execute(save(chain_of(width=16))).ui
    told = "SD15, latent 16 x 8, schedule rival, solver ddim: inverted poorly: 5 steps"
    assert shown["text"][0].startswith(told)
    (picture,) = shown["images"]
    assert picture["type"] == "temp" and (folders / "temp" / picture["filename"]).is_file()


def test_a_loaded_chain_knows_its_weights(folders, caplog):
    import tiny

    chain = load(save(chain_of()))
    graph.patch(model_of("sd15"), chain)
    assert "another checkpoint" not in caplog.text
    graph.patch(tiny.build("sd15", seed=1), chain)
    assert "another checkpoint" in caplog.text


def preview_of(name: str):
    from comfyui_rival.nodes import host

    return host.load_chain(name).preview


def test_the_picture_is_the_latent_in_approximate_colours(folders):
    import comfy.latent_formats

    chain = chain_of()
    picture = preview_of(save(chain))
    factors = torch.tensor(comfy.latent_formats.SD15().latent_rgb_factors)
    wanted = (chain.clean[0, :, 3, 2] @ factors + 1) * 127.5
    assert picture.shape == (8, 8, 3)
    assert (picture[3, 2] - wanted.clamp(0, 255)).abs().max() <= 0.51


def test_the_picture_is_decoded_if_there_is_a_vae(folders):
    class Vae:
        def decode(self, samples):
            self.samples = samples
            return torch.linspace(0, 1, 3).expand(1, 256, 192, 3)

    vae = Vae()
    picture = preview_of(save(chain_of(), vae=vae))
    assert torch.allclose(vae.samples * 0.18215, chain_of().clean)
    assert picture.shape == (128, 96, 3) and picture[5, 5].tolist() == [0, 128, 255]


def test_a_latent_format_that_this_host_has_not(folders):
    from comfyui_rival.nodes import RivalLoadChain

    chain = chain_of()
    card = dataclasses.replace(chain.model, latent_format="FromTheFuture")
    name = save(dataclasses.replace(chain, model=card))
    assert preview_of(name) is None
    shown, usual = (RivalLoadChain.execute(n).ui for n in (name, save(chain_of())))
    assert shown["images"] == []
    assert shown.keys() == usual.keys(), "the host joins the runs of a list by their keys"
    assert load(name).model == card  # RIVAL Patch Model refuses it by name


def test_latents_go_where_inversion_leaves_them(folders, monkeypatch):
    import comfy.model_management

    name = save(chain_of())
    meta = torch.device("meta")
    monkeypatch.setattr(comfy.model_management, "intermediate_device", lambda: meta)
    chain = load(name)
    assert chain.latents.device == chain.positive[0][0].device == meta
    assert {t.device.type for t in (chain.sigmas, chain.residuals, chain.calls)} == {"cpu"}


def test_a_chain_with_lora_hooks_is_refused(folders):
    import comfy.hooks

    (tokens, options), *_ = chain_of().positive
    hooked = [[tokens, {**options, "hooks": comfy.hooks.HookGroup()}]]
    with refuses("RIVAL Save Chain", "positive carries LoRA hooks"):
        save(dataclasses.replace(chain_of(), positive=hooked))
    assert files_of(folders) == []


FOREIGN = {
    "two prompts": ({"positive": 2}, "2 entries"),
    "an area": ({"area": (8, 8, 0, 0)}, "an area"),
    "other channels": ({"latents": 16}, "another shape"),
    "weights of no use": ({"weights": "0123:not base64"}, "which weights"),
    "weights of nothing": ({"weights": "0123:"}, "which weights"),
    "weights in three": ({"weights": "a:AACAPw==:b"}, "which weights"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_chains_that_no_inversion_makes(folders, name):
    """Sound files, but not of RIVAL Invert."""
    changes, said = FOREIGN[name]
    chain = chain_of()
    tokens, options = chain.positive[0]
    if "positive" in changes:
        changes = {"positive": chain.positive * 2}
    elif "area" in changes:
        changes = {"positive": [[tokens, {**options, **changes}]]}
    elif "latents" in changes:
        changes = {"latents": chain.latents.repeat(1, 4, 1, 1)}
    with refuses("RIVAL Load Chain", said):
        load(chain_saved(dataclasses.replace(chain, **changes), folders))


def chain_saved(chain, folders) -> str:
    from comfyui_rival.rival_core.chain import file as chain_file

    chain_file.save(chain, folders / "input" / "foreign.safetensors")
    return "foreign.safetensors"
