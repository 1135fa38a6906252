"""The harness itself: hosts are found in order, tiny models are seeded, finite and attentive."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import environment
import hosts
import pytest
from serving import CHECKPOINT, place


def make_host(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "main.py").write_text("")
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    (folder / "requirements.txt").write_text(
        "comfyui-frontend-package==1.0\ntorch\n# a comment\nav>=14\ncomfy-kitchen==0.2.9\n\n")
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder of its own, no COMFYUI_PATH and no clone."""
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(hosts.Path, "home", classmethod(lambda cls: tmp_path))
    monkeypatch.setattr(hosts, "CLONE", tmp_path / "clone")
    monkeypatch.setattr(hosts, "_enclosing", list)
    return tmp_path


def test_home_is_searched(home):
    make_host(home / "ComfyUI", "0.3.1")
    make_host(home / "ComfyUI-new", "0.9.0")
    (home / "ComfyUI-not-one").mkdir()
    assert [host.version for host in hosts.find_hosts(clone=False)] == ["0.3.1", "0.9.0"]


def test_variable_comes_first_and_keeps_its_order(home, monkeypatch):
    make_host(home / "ComfyUI", "0.3.1")
    second, first = make_host(home / "b", "2.0"), make_host(home / "a", "1.0")
    monkeypatch.setenv("COMFYUI_PATH", os.pathsep.join([str(second), str(first)]))
    assert [host.version for host in hosts.find_hosts()] == ["2.0", "1.0"]


def test_a_wrong_variable_is_an_error_naming_it(home, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(home / "nowhere"))
    with pytest.raises(hosts.HostError, match="nowhere"):
        hosts.find_hosts()


def test_a_failed_clone_leaves_no_host_and_says_why(home, monkeypatch, capsys):
    monkeypatch.setattr(hosts, "SOURCE", str(home / "no-such-repository"))
    assert hosts.find_hosts() == []
    assert "clone failed" in capsys.readouterr().out


def test_enclosing_comfyui(tmp_path, monkeypatch):
    host = make_host(tmp_path / "Comfy", "0.5.0")
    monkeypatch.setattr(hosts, "__file__", str(host / "custom_nodes/rival/harness/hosts.py"))
    assert [found.path for found in hosts._enclosing()] == [host.resolve()]


def test_requirements_leave_out_torch_and_frontend(tmp_path):
    host = hosts.read_host(make_host(tmp_path / "host", "1.0"))
    assert environment.host_requirements([host]) == {"av>=14", "comfy-kitchen==0.2.9"}


def test_of_two_pins_the_newest_is_kept():
    asked = {"comfy-kitchen==0.2.9", "comfy-kitchen==0.2.31", "av>=14", "av>=16"}
    assert environment.newest_pins(asked) == {"comfy-kitchen==0.2.31", "av>=14", "av>=16"}


def test_torch_never_resolves_on_its_own():
    assert environment.requirement_name("Torch_SDE>=1 # x") == "torch-sde"
    assert environment.capable_interpreter(["no-such-distribution-anywhere"]) is None


def test_without_a_host_nothing_of_a_host_is_needed(monkeypatch):
    looked_for = []
    monkeypatch.setattr(environment, "_is_installed", lambda name: not looked_for.append(name))
    assert environment.capable_interpreter(environment.ENGINE_NEEDS) == Path(sys.executable)
    assert set(looked_for) == {"torch", *environment.CORE_NEEDS, *environment.ENGINE_NEEDS}


@pytest.mark.host
@pytest.mark.parametrize("family", ["sd15", "sd2_v", "sdxl", "sd15_inpaint", "flux", "sd3"])
def test_tiny_models_are_seeded_and_finite(family):
    import tiny

    first, again, other = (tiny.predict(tiny.build(family, seed)) for seed in (0, 0, 1))
    assert (first - again).abs().max() == 0
    assert (first - other).abs().max() > 0.1
    assert first.isfinite().all() and 0.8 < first.std() < 1.2


@pytest.mark.host
@pytest.mark.parametrize("family", ["sd15", "sd2_eps", "sdxl", "sdxl_refiner"])
def test_tiny_attention_matters(family):
    """Other keys and values in self-attention change the output by tens of percent."""
    import tiny

    model, exemplar = tiny.build(family), {}

    def capture(n, context, value, extra):
        exemplar[extra["block"], extra["block_index"]] = n
        return n, context, value

    def replace(n, context, value, extra):
        other = exemplar[extra["block"], extra["block_index"]]
        return n, other, other

    plain = tiny.predict(model, seed=1)
    tiny.predict(model, seed=2, patches={"attn1_patch": [capture]})
    changed = tiny.predict(model, seed=1, patches={"attn1_patch": [replace]})
    assert {block[0] for block, _ in exemplar} == {"input", "middle", "output"}
    assert 0.2 < (changed - plain).norm() / plain.norm() < 1.5


@pytest.mark.host
def test_every_tiny_family_samples():
    import comfy.sample
    import tiny

    for family in tiny.FAMILIES:
        model = tiny.build(family)
        channels = model.model.latent_format.latent_channels
        latent = tiny.latent(channels=channels)["samples"]
        noise = comfy.sample.prepare_noise(latent, 1)
        result = comfy.sample.sample(
            model, noise, 3, 2.0, "euler", "normal", tiny.conditioning(model, 1),
            tiny.conditioning(model, 2), latent, disable_pbar=True, seed=1)
        assert result.isfinite().all(), family


@pytest.mark.host
def test_server_runs_a_seeded_checkpoint(server, server_folder):
    """The checkpoint loads, samples with previews and progress, and is saved as a picture."""
    import comfy_process

    checkpoints = server_folder / "models" / "checkpoints"
    place(checkpoints / CHECKPOINT, checkpoints / "seeded.safetensors")  # which no prompt has used
    prompt = {
        "1": node("CheckpointLoaderSimple", ckpt_name="seeded.safetensors"),
        "2": node("CLIPTextEncode", clip=["1", 1], text="a fox"),
        "3": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "4": node("KSampler", model=["1", 0], positive=["2", 0], negative=["2", 0],
                  latent_image=["3", 0], seed=1, steps=3, cfg=4.0, sampler_name="euler",
                  scheduler="normal", denoise=1.0),
        "5": node("VAEDecode", samples=["4", 0], vae=["1", 2]),
        "6": node("SaveImage", images=["5", 0], filename_prefix="test"),
    }
    outcome = server.run(prompt)
    assert server.view(outcome.images("6")[0]).startswith(b"\x89PNG")
    assert outcome.progress == [("4", step, 3) for step in (1, 2, 3)]
    assert outcome.started[0] == "1" and outcome.previews >= 2
    prompt["4"]["inputs"]["sampler_name"] = "nonsense"
    with pytest.raises(comfy_process.ExecutionError, match="nonsense"):
        server.run(prompt)


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}
