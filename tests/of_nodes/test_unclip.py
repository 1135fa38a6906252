"""unCLIP prompts: the host draws their noise from a run's seed, the photo's is always the same."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import graph
import pytest
import tiny
import torch

pytestmark = pytest.mark.host
EMBEDDED = 1280  # of SDXL's pooled text, and of the pictures that take its place
WIDTHS = {"sdxl": EMBEDDED, "sd21": 1024}


def sd21():
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    unet = tiny._unet_config((1, 1), use_linear_in_transformer=True, num_classes="sequential",
                             adm_in_channels=2 * WIDTHS["sd21"])  # fmt: skip
    heads = {"num_heads": -1, "num_head_channels": 64}
    config = tiny._model_config(comfy.supported_models.SD21UnclipH, unet, **heads)
    model = comfy.model_base.SD21UNCLIP(config, config.noise_aug_config)
    model.eval().requires_grad_(False)
    tiny.seeded.fill(model.diffusion_model, 0)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


@pytest.fixture(scope="module")
def setups():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiny, "POOLED", EMBEDDED)
        models = {"sdxl": tiny.build("sdxl"), "sd21": sd21()}
        made = {}
        for name, model in models.items():
            prompt = pictured(tiny.conditioning(model, 1), WIDTHS[name], 5)
            with seen(model) as rows:
                chain, _ = graph.invert(model, tiny.latent(2, size=8), prompt, steps=5)
            made[name] = (model, chain, rows, tiny.conditioning(model, 3))
        return made


def pictured(prompt, width, *seeds):
    """The prompt with pictures, as core's unCLIP Conditioning adds them."""
    import nodes

    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        vision = SimpleNamespace(image_embeds=torch.randn(1, width, generator=generator))
        prompt = nodes.unCLIPConditioning().apply_adm(prompt, vision, 1.0, 0.3)[0]
    return prompt


@contextmanager
def seen(model):
    """A list of what the network was given beside text: each different row of it, once."""
    rows, network = [], model.model.diffusion_model

    def look(_, args, kwargs):
        for row in kwargs["y"]:
            if not any(torch.equal(row, other) for other in rows):
                rows.append(row.clone())

    handle = network.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


@pytest.mark.parametrize("name", WIDTHS)
def test_the_photo_is_seen_as_it_was_inverted(setups, name):
    """By the steered sampler whatever its seed, on the way back, and in a probe."""
    from comfyui_rival.nodes import RivalReconstruct, host

    model, chain, (inverted,), plain = setups[name]
    steered = graph.patch(model, chain)
    for seed in (0, 7):
        with seen(model) as rows:
            graph.rival_sample(steered, chain, plain, plain, seed=seed, cfg=1.0)
        assert len(rows) == 2 and any(torch.equal(row, inverted) for row in rows)
    with seen(model) as rows:
        RivalReconstruct.execute(model, chain)
        host.probe(model, chain.latents[-1:], chain.sigmas[-1:], chain.positive, {})
    assert len(rows) == 1 and torch.equal(rows[0], inverted)


def test_the_images_own_prompt_keeps_the_samplers_seed(setups):
    model, chain, (inverted,), _ = setups["sdxl"]
    steered = graph.patch(model, chain)
    with seen(model) as rows:
        graph.rival_sample(steered, chain, *[chain.positive] * 2, seed=7, cfg=1.0)
    assert len(rows) == 2 and any(torch.equal(row, inverted) for row in rows)


def test_several_pictures_in_one_prompt(setups):
    """The host mixes them with noise that it draws without any seed, after the seeded."""
    model, _, _, plain = setups["sdxl"]
    prompt = pictured(plain, EMBEDDED, 5, 6)
    torch.manual_seed(1)
    with seen(model) as rows:
        chain, _ = graph.invert(model, tiny.latent(2, size=8), prompt, steps=5)
        torch.manual_seed(2)
        graph.rival_sample(graph.patch(model, chain), chain, plain, plain, seed=3, cfg=1.0)
    assert len(rows) == 2


def test_samplers_draw_what_they_would_without_the_photo(setups):
    from comfyui_rival.nodes import host

    model, chain, *_ = setups["sdxl"]
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    prompts = {"positive": chain.positive}
    host.encode_conditioning(model.model, prompts, chain.latents[:1], chain.sigmas)
    assert torch.equal(torch.rand(3), expected)


def test_no_file_holds_the_picture(setups):
    from comfyui_rival.nodes import RivalSaveChain

    chain = setups["sdxl"][1]
    with pytest.raises(ValueError, match=r"^RIVAL Save Chain: positive carries an unCLIP image"):
        RivalSaveChain.execute(chain, "unclip")
