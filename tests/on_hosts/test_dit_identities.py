"""RIVAL on DiTs: what must hold in one model call, for every family that the host has."""

from __future__ import annotations

import pytest
import tiny_dits
import torch

pytestmark = pytest.mark.host
SIGMA = 0.7
MODES = {"replace": 1.0, "concat": 0.0}


@pytest.fixture(scope="module", params=tiny_dits.FAMILIES)
def dit(request):
    family = request.param
    if family not in tiny_dits.available():
        pytest.skip(f"this ComfyUI has no {family}")
    return tiny_dits.build(family)


def photo(model, x, prompt, negative=None):
    """A chain whose latent at SIGMA is x; it was never inverted."""
    from comfyui_rival.nodes import host
    from comfyui_rival.rival_core.chain.chain import Chain

    return Chain(
        sigmas=torch.tensor([0.0, SIGMA]),
        latents=torch.cat([x, x]),
        scaling=host.scaling_of(model),
        model=host.model_card(model),
        positive=prompt,
        negative=negative,
    )


def steered(model, chain, mode, **exemplar):
    from comfyui_rival.nodes.steering.run import align
    from comfyui_rival.rival_core.steering.exemplar import Exemplar
    from comfyui_rival.rival_core.steering.gates import Gates

    gates = Gates(replace_end=MODES[mode], normalize_end=0.0)
    return align(model, Exemplar(chain, gates, **exemplar))


def apart(a, b) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("mode", MODES)
def test_the_photo_itself_changes_nothing(dit, mode):
    x, prompt = tiny_dits.noise(dit, 1), tiny_dits.conditioning(dit, 1)
    plain = tiny_dits.velocity(dit, x, SIGMA, prompt)
    model = steered(dit, photo(dit, x, prompt), mode, positions="same")
    assert apart(tiny_dits.velocity(model, x, SIGMA, prompt), plain) < 1e-5
    other = steered(dit, photo(dit, tiny_dits.noise(dit, 2), prompt), mode, positions="same")
    assert apart(tiny_dits.velocity(other, x, SIGMA, prompt), plain) > 1e-2
