"""The whole pack on flow transformers that the host's own loader makes of files."""

from __future__ import annotations

from pathlib import Path

import dit_files
import graph
import pytest
import tiny_dits
import torch

pytestmark = pytest.mark.host
STEPS = 8


class Loaded:
    """A MODEL of a file, with a photo and prompts for it."""

    def __init__(self, family: str, model, tensors: dict):
        self.family, self.model, self.tensors = family, model, tensors
        self.photo = tiny_dits.latent(model, seed=1)
        self.prompt, self.other, self.negative = (
            dit_files.prompt(family, seed, tokens) for seed, tokens in ((1, 24), (2, 20), (3, 9)))
        inverted = {"steps": STEPS, "solver": "anderson", "iterations": 30, "tolerance": 1e-6}
        self.chain, _ = graph.invert(model, self.photo, self.prompt, **inverted)

    def sample(self, model, positive=None, **inputs) -> torch.Tensor:
        positive = positive or self.other
        return graph.rival_sample(model, self.chain, positive, self.negative, **inputs)


@pytest.fixture(scope="module", params=dit_files.FAMILIES)
def loaded(request) -> Loaded:
    import folder_paths

    import nodes

    if request.param not in dit_files.available():
        pytest.skip("this ComfyUI knows the family at its full width alone")
    folder = Path(folder_paths.get_folder_paths("diffusion_models")[0])
    tensors = dit_files.write(folder / f"tiny_{request.param}.safetensors", request.param)
    (model,) = nodes.UNETLoader().load_unet(f"tiny_{request.param}.safetensors", "default")
    model.model.requires_grad_(False)  # hosts run whole prompts without gradients
    return Loaded(request.param, model, tensors)


def test_the_loader_knows_the_family_and_loads_every_weight(loaded):
    family = dit_files.FAMILIES[loaded.family]
    assert type(loaded.model.model.model_config).__name__ == family.config
    weights = loaded.model.model.diffusion_model.state_dict()
    assert weights.keys() == loaded.tensors.keys()
    assert all(torch.equal(weights[name].float(), t) for name, t in loaded.tensors.items())


def test_the_photo_comes_back(loaded):
    from comfyui_rival.nodes import RivalReconstruct

    latent, _, _, report = RivalReconstruct.execute(loaded.model, loaded.chain).args
    assert latent["samples"].shape == loaded.photo["samples"].shape
    assert graph.relative(latent["samples"], loaded.photo["samples"]) < 1e-3, report


@pytest.mark.parametrize("replace_end", [0.0, 0.4, 1.0])
def test_the_photo_beside_itself_is_the_photo(loaded, replace_end):
    """Every step reads what it has anyway: own keys replaced, and all keys twice."""
    gates = {"replace_end": replace_end, "normalize_end": 1.0}
    model = graph.patch(loaded.model, loaded.chain, positions="same", **gates)
    found = loaded.sample(model, loaded.prompt, start="inverted", cfg=1.0)
    assert graph.relative(found, loaded.photo["samples"]) < 1e-3


def test_variations_read_the_photo_and_leave_the_model_as_it_was(loaded):
    before = loaded.sample(loaded.model, cfg=3.0, batch_size=2)
    found = loaded.sample(graph.patch(loaded.model, loaded.chain), cfg=3.0, batch_size=2)
    assert found.shape == (2, *loaded.photo["samples"].shape[1:])
    assert found.isfinite().all() and graph.relative(found, before) > 1e-2
    assert graph.relative(found[:1], found[1:]) > 1e-2
    assert torch.equal(loaded.sample(loaded.model, cfg=3.0, batch_size=2), before)


def test_another_size(loaded):
    size = tiny_dits.latent(loaded.model, size=(4, 12))
    model = graph.patch(loaded.model, loaded.chain)
    found = loaded.sample(model, latent={"samples": torch.zeros_like(size["samples"])})
    assert found.shape == size["samples"].shape and found.isfinite().all()
