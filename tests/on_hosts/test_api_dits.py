"""Flow transformers over HTTP: three families through the host's own loaders, nodes and queue."""

from __future__ import annotations

import re
from typing import NamedTuple

import dit_files
import prompts
import pytest
from prompts import HEIGHT, WIDTH, node
from serving import marked, pictures

np = pytest.importorskip("numpy")  # both come with a host's requirements
comfy_process = pytest.importorskip("comfy_process")

pytestmark = pytest.mark.host
STEPS, SMALL = 6, {"width": 64, "height": 48, "batch_size": 1}
WIDE = {"width": 96, "height": 48, "batch_size": 1}


class Kind(NamedTuple):
    """What a family's files are marked as, beside the model's, which is real where it can be."""

    vae: str
    text: str


KINDS = {"sd3": Kind("16x0", "text"), "wan": Kind("16x1", "text4096"), "flux": Kind("16x0", "text")}


@pytest.fixture(scope="module", params=KINDS)
def family(request, server, server_folder) -> str:
    """Its files are on the server, under names of its own."""
    name, models = request.param, server_folder / "models"
    file = models / "diffusion_models" / f"api_{name}.safetensors"
    if name in dit_files.available():
        dit_files.write(file, name)
    else:
        marked(file, name)
    marked(models / "vae" / f"api_{name}.safetensors", KINDS[name].vae)
    marked(models / "text_encoders" / f"api_{name}.safetensors", KINDS[name].text)
    return name


def loaders(family: str) -> dict:
    """Under the names that prompts.py has for a checkpoint's parts."""
    file = f"api_{family}.safetensors"
    text = node("CLIPLoader", clip_name=file, type=family)
    if family == "flux":
        text = node("DualCLIPLoader", clip_name1=file, clip_name2=file, type=family)
    return {
        "model": node("UNETLoader", unet_name=file, weight_dtype="default"),
        "text": text,
        "vae": node("VAELoader", vae_name=file),
    }


def variation(family: str, **changes) -> dict:
    """prompts.py's, exactly inverted, on the family's own loaders."""
    prompt = prompts.variation(STEPS, cfg=2.0, **changes)
    prompt |= prompts.exemplar(STEPS, "anderson", 1e-6)
    prompt["invert"]["inputs"]["iterations"] = 30
    return on(family, prompt)


def on(family: str, prompt: dict) -> dict:
    """A prompt that takes the family's parts in place of the checkpoint's."""
    del prompt["checkpoint"]
    parts = (["model", 0], ["text", 0], ["vae", 0])
    for entry in prompt.values():
        for name, value in entry["inputs"].items():
            if isinstance(value, list) and value[0] == "checkpoint":
                entry["inputs"][name] = parts[value[1]]
    return prompt | loaders(family)


def run(server, prompt: dict) -> np.ndarray:
    return pictures(server, server.run(prompt)).astype(int)


def test_variations_of_a_photo(family, server):
    """Two of a batch differ, and both from what the model makes without the patch."""
    prompt = variation(family, seed=11, batch=2)
    images = run(server, prompt)
    assert images.shape == (2, HEIGHT, WIDTH, 3) and images.std() > 5
    assert np.abs(images[0] - images[1]).max() > 20
    prompt["sample"]["inputs"]["model"] = ["model", 0]
    assert np.abs(run(server, prompt) - images).max() >= 3  # a network of one layer


def test_the_photo_comes_back(family, server):
    prompt = variation(family)
    chain = {"model": ["model", 0], "chain": ["invert", 0], "vae": ["vae", 0]}
    prompt["check"] = node("RivalReconstruct", **chain)
    prompt["images"] = node("PreviewAny", source=["check", 3])
    said = server.run(prompt).text("check")
    assert float(re.search(r"latent: .*relative ([\d.e+-]+)", said)[1]) < 1e-5, said


def test_another_size_from_an_empty_latent(family, server):
    prompt = variation(family, seed=12)
    prompt["size"] = node("EmptySD3LatentImage", **WIDE)
    prompt["sample"]["inputs"]["latent"] = ["size", 0]
    images = run(server, prompt)
    assert images.shape == (1, WIDE["height"], WIDE["width"], 3) and images.std() > 5


def test_what_a_patched_run_leaves_however_it_ended(family, server):
    """Core's sampler on the loader's model, and on the patch, before and after an interrupt."""

    def core(model: str, steps: int = STEPS) -> dict:
        prompt = prompts.core_sampler(model, steps, seed=51)
        prompt["size"] = node("EmptySD3LatentImage", **SMALL)
        return on(family, prompt)

    def interrupt(name, value, maximum):
        if name == "sample" and value == 2:
            server.interrupt()

    before, patched = (run(server, core(model)) for model in ("checkpoint", "patch"))
    assert np.abs(patched - before).max() > 20
    with pytest.raises(comfy_process.Interrupted):
        server.run(core("patch", 50), on_progress=interrupt)
    assert np.abs(run(server, core("checkpoint")) - before).max() == 0
    assert np.abs(run(server, core("patch")) - patched).max() == 0
