"""The diffusers engine against the official algorithm, and the same weights in two hosts."""

from __future__ import annotations

import math
from functools import cache

import graph
import official
import pytest
import seeded
import torch
from comfyui_rival.rival_core.diffusers import engine
from comfyui_rival.rival_core.diffusers.model import (
    Model,
    Prompt,
    to_diffusers,
    to_tiny_autoencoder,
)
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.steering.exemplar import Exemplar
from comfyui_rival.rival_core.steering.gates import Gates
from paper_settings import SEED, SETTINGS, Setting, official_start
from tiny_diffusers import CAPTION, EMPTY, EPS, NEGATIVE, V, build, photo, relative

TOLERANCE = 1e-4


# --- the official algorithm on a diffusers UNet ---------------------------------------------------


class Attention:
    """A self-attention as official.py expects it: called with tokens, its `forward` replaceable."""

    def __init__(self, attn):
        self.attn, self.plain = attn, attn.processor
        self.to_q, self.to_k, self.to_v, self.heads = attn.to_q, attn.to_k, attn.to_v, attn.heads
        attn.set_processor(self)

    def to_out(self, x):
        return self.attn.to_out[0](x)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        forward = vars(self).get("forward")
        return forward(hidden_states) if forward else self.plain(attn, hidden_states)


def run_official(setting: Setting, size, steps, prediction, monkeypatch, mistakes=()):
    """(chain, final z) in VP coordinates, on a UNet of its own."""
    unet = build()
    attns = [Attention(m) for name, m in unet.named_modules() if name.endswith("attn1")]
    monkeypatch.setattr(official, "self_attentions", lambda _: attns)

    def network(z, t, context, **_):
        return unet(z, t, encoder_hidden_states=context).sample

    texts = [p.tokens for p in (EMPTY, NEGATIVE, CAPTION)]
    cond_r = texts[2] if setting.inverted_with_prompt else texts[0]
    common = {"prediction": prediction, "mistakes": mistakes}
    chain = official.invert(network, photo(*size), cond_r, steps, **common)
    start = official_start(chain[-1], setting.start)
    final = official.sample(
        network, chain, start, *texts[:2], cond_r, texts[2], steps, setting.cfg, setting.align,
        setting.t_early, setting.early, **common,
    )  # fmt: skip
    return chain, final


@cache
def run_engine(setting: Setting, size, steps, prediction):
    model = Model(build(), V if prediction == "v" else None)
    prompts = (CAPTION, steps, EMPTY) if setting.inverted_with_prompt else (EMPTY, steps)
    chain = engine.invert(model, photo(*size), *prompts)
    exemplars = [Exemplar(chain, Gates(**setting.gates()))]
    final = engine.sample(
        model, chain, exemplars, CAPTION, NEGATIVE, SEED, setting.cfg, setting.start
    )
    return chain, final


EPS_WIDE, V_SQUARE = ("eps", (8, 12), 10), ("v", (8, 8), 12)


@pytest.mark.parametrize(("name", "how"), [
    *((name, EPS_WIDE) for name in SETTINGS),
    *((name, V_SQUARE) for name in ("prompt_inverted", "editing")),
])
def test_parity_with_the_official_algorithm(name, how, monkeypatch):
    prediction, size, steps = how
    theirs, their_final = run_official(SETTINGS[name], size, steps, prediction, monkeypatch)
    ours, our_final = run_engine(SETTINGS[name], size, steps, prediction)
    for sigma, x, z in zip(ours.sigmas.tolist(), ours.latents, theirs):
        assert relative(x[None] / math.sqrt(1 + sigma**2), z) < TOLERANCE
    print(f"relative error {relative(our_final, their_final):.1e}")
    assert relative(our_final, their_final) < TOLERANCE


@pytest.mark.parametrize("mistake", sorted(official.MISTAKES))
def test_every_deliberate_mistake_would_be_noticed(mistake, monkeypatch):
    setting = SETTINGS["prompt_inverted"]
    _, wrong = run_official(setting, (8, 8), 10, "eps", monkeypatch, {mistake})
    _, ours = run_engine(setting, (8, 8), 10, "eps")
    assert relative(ours, wrong) > 100 * TOLERANCE


# --- the same weights in ComfyUI, through the nodes, and in diffusers -----------------------------

HEADS = {"sd15": {"heads": 4}, "sd2_v": {}, "sdxl": {"head_width": 32}}  # as in tiny.py


@pytest.fixture(scope="module")
def hosts(request):
    return two_hosts(request.param, **HEADS[request.param])


def two_hosts(family, **heads):
    """(ComfyUI's MODEL, the engine's Model) with the same weights."""
    import tiny

    comfy = tiny.build(family)
    unet = to_diffusers(comfy.model.diffusion_model.state_dict(), **heads)
    return comfy, Model(unet, V if family.endswith("_v") else EPS)


def compare(hosts, setting: Setting, steps=6, size=(8, 8), strength=1.0, batch=1):
    """The relative error between the hosts, of the chain and of the variations."""
    import tiny

    comfy, model = hosts
    texts = [tiny.conditioning(comfy, seed) for seed in (1, 2, 3)]
    empty, negative, caption = texts
    prompts = [Prompt(c[0][0], c[0][1]["pooled_output"]) for c in texts]
    scale = comfy.model.latent_format.scale_factor
    image = photo(*size)
    if setting.inverted_with_prompt:
        theirs, _ = graph.invert(comfy, {"samples": image}, caption, negative=empty, steps=steps)
        ours = engine.invert(model, scale * image, prompts[2], steps, prompts[0])
    else:
        theirs, _ = graph.invert(comfy, {"samples": image}, empty, steps=steps)
        ours = engine.invert(model, scale * image, prompts[0], steps)
    patched = graph.patch(comfy, theirs, strength=strength, **setting.gates())
    options = {"seed": SEED, "cfg": setting.cfg, "start": setting.start}
    wanted = graph.rival_sample(patched, theirs, caption, negative, batch_size=batch, **options)
    exemplars = [Exemplar(ours, Gates(**setting.gates()), strength)]
    got = engine.sample(
        model, ours, exemplars, prompts[2], prompts[1], draws=range(batch), **options
    )
    return relative(ours.latents, theirs.latents), relative(got, scale * wanted)


OTHERS = ("variation", "text_driven", "editing")


@pytest.mark.host
@pytest.mark.parametrize(("hosts", "name"), [
    *((family, "prompt_inverted") for family in HEADS),
    *(pytest.param("sd15", name, marks=pytest.mark.any_host) for name in OTHERS),
], indirect=["hosts"])
def test_two_hosts_agree(hosts, name):
    chain, variation = compare(hosts, SETTINGS[name])
    print(f"relative error of the chain {chain:.1e}, of the variation {variation:.1e}")
    assert chain < TOLERANCE and variation < TOLERANCE


@pytest.mark.any_host
@pytest.mark.parametrize(
    "how",
    [
        {"setting": SETTINGS["prompt_inverted"], "size": (8, 12), "batch": 2},
        {"setting": SETTINGS["prompt_inverted"], "strength": 0.5},
        {"setting": Setting(cfg=5.0, start="gaussian"), "steps": 9},
        {"setting": Setting(cfg=1.0)},
    ],
    ids=["wide batch", "strength", "gaussian", "no guidance"],
)
@pytest.mark.parametrize("hosts", ["sd15"], indirect=True)
def test_two_hosts_agree_whatever_is_asked(hosts, how):
    assert max(compare(hosts, **how)) < TOLERANCE


@pytest.mark.any_host
def test_two_different_models_would_be_noticed():
    assert min(compare(two_hosts("sd15", heads=8), SETTINGS["variation"])) > 100 * TOLERANCE


LAYOUTS = {
    "one level": {"channel_mult": [1], "num_res_blocks": [1], "transformer_depth": [1]},
    "one level, no middle": {
        "channel_mult": [1], "num_res_blocks": [1], "transformer_depth": [1],
        "transformer_depth_middle": -2,
    },
    "one level, two blocks": {
        "channel_mult": [1], "num_res_blocks": [2], "transformer_depth": [1, 1],
    },
    "plain above": {
        "channel_mult": [1, 1], "num_res_blocks": [1, 1], "transformer_depth": [0, 1],
    },
    "plain below, as SD1.5": {
        "channel_mult": [1, 2, 4], "num_res_blocks": [2, 2, 2],
        "transformer_depth": [1, 1, 1, 1, 0, 0],
    },
    "deep, as SDXL": {
        "channel_mult": [1, 2, 4], "num_res_blocks": [1, 1, 1], "transformer_depth": [0, 2, 3],
        "use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 64,
        "model_channels": 64,
    },
}  # fmt: skip


def ldm_unet(**layout):
    """ComfyUI's UNet with seeded weights: whatever its loader can detect, but narrow."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    depths = layout["transformer_depth"]
    blocks = layout["num_res_blocks"]
    levels = [depths[i * blocks[0] : (i + 1) * blocks[0]] for i in range(len(blocks))]
    config = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
        "use_spatial_transformer": True, "legacy": False, "context_dim": 32, "num_heads": 8,
        "num_head_channels": -1, "use_linear_in_transformer": False,
        "transformer_depth_middle": max(1, depths[-1]),
        "transformer_depth_output": [d for level in levels for d in [*level, level[0]]],
    }  # fmt: skip
    unet = UNetModel(**{**config, **layout}).eval().requires_grad_(False)
    seeded.fill(unet, 0)
    return unet


@pytest.mark.any_host
@pytest.mark.parametrize(("name", "prefix"), [
    *((name, "") for name in LAYOUTS), ("plain below, as SD1.5", "model.diffusion_model."),
])
def test_every_layout_converts_to_the_same_network(name, prefix):
    theirs = ldm_unet(**LAYOUTS[name])
    weights = {prefix + key: w.half() for key, w in theirs.state_dict().items()}
    ours = to_diffusers({**weights, "first_stage_model.decoder.bias": torch.zeros(1)})
    assert ours.dtype == torch.float32
    theirs.load_state_dict({key: w.half() for key, w in theirs.state_dict().items()})
    x, t = photo(16, 8), torch.tensor([300.0])
    text = CAPTION.tokens
    assert relative(ours(x, t, text).sample, theirs(x, t, context=text)) < 1e-5


@pytest.mark.any_host
def test_unequal_levels_are_refused():
    layout = {"channel_mult": [1, 1], "num_res_blocks": [1, 2], "transformer_depth": [1, 1, 1]}
    unet = ldm_unet(**layout, transformer_depth_output=[1] * 5)
    with pytest.raises(RivalError, match="as many blocks at every level"):
        to_diffusers(unet.state_dict())


@pytest.mark.any_host
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_the_tiny_autoencoder_converts(prefix):
    from comfy.taesd.taesd import TAESD

    theirs = TAESD().eval().requires_grad_(False)
    seeded.fill(theirs, 0)
    theirs.vae_scale.fill_(0.18215)
    theirs.vae_shift.fill_(0.0)
    ours = to_tiny_autoencoder({prefix + key: w for key, w in theirs.state_dict().items()})
    image = photo(32, 48)[:, :3].clamp(-1, 1)
    latent = ours.encode(image).latents
    assert relative(latent, 0.18215 * theirs.encode(image)) < 1e-5
    assert relative(ours.decode(latent).sample, theirs.decode(latent / 0.18215)) < 1e-5
