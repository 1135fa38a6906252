"""Flux in two hosts: the same weights in ComfyUI, through the nodes, and in diffusers.

Both engines share the core's arithmetic; what is compared is all that is between it and a network.
"""

from __future__ import annotations

from dataclasses import replace

import flux_names
import graph
import pytest
import tiny_dits
import torch
from comfyui_rival.rival_core.diffusers import engine, joint
from comfyui_rival.rival_core.diffusers.flow import FlowModel
from comfyui_rival.rival_core.diffusers.model import Prompt
from comfyui_rival.rival_core.inversion.fixed_point import Solver
from comfyui_rival.rival_core.steering.exemplar import Exemplar
from comfyui_rival.rival_core.steering.gates import Gates

pytestmark = pytest.mark.host
TOLERANCE = 1e-4
SIZE, STEPS, SEED, CFG = (8, 12), 8, 7, 3.0
ANDERSON = {"solver": "anderson", "iterations": 10, "tolerance": 1e-6}


class Hosts:
    """A MODEL of ComfyUI and the engine's of diffusers; prompts and a photo's chain for either."""

    def __init__(self):
        self.comfy = tiny_dits.build("flux", mlp_ratio=4.0)  # the only one that diffusers has
        scheduler = flux_names.diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        self.model = FlowModel(flux_names.transformer(self.comfy), scheduler)
        self.texts = [tiny_dits.conditioning(self.comfy, seed) for seed in (1, 2, 3)]
        self.prompts = [
            Prompt(tokens, more["pooled_output"], guidance=more["guidance"])
            for ((tokens, more),) in self.texts
        ]
        latent = tiny_dits.latent(self.comfy, 5, size=SIZE)
        photo, negative, _ = self.texts
        self.theirs, _ = graph.invert(
            self.comfy, latent, photo, negative=negative, steps=STEPS, schedule="simple", **ANDERSON
        )
        self.ours = engine.invert(
            self.model, self.seen(latent["samples"]), self.prompts[0], STEPS, self.prompts[1],
            solver=Solver(*ANDERSON.values()),
        )  # fmt: skip

    def seen(self, samples):
        """A LATENT as the network sees it."""
        return self.comfy.model.process_latent_in(samples)

    def wanted(self, cfg=CFG, start="shuffle", batch=1, size=None, **patched):
        """The variations that ComfyUI's nodes make."""
        model = graph.patch(self.comfy, self.theirs, **patched)
        latent = None if size is None else {"samples": torch.zeros(1, 16, *size)}
        samples = graph.rival_sample(
            model, self.theirs, self.texts[2], self.texts[1], cfg=cfg, start=start, seed=SEED,
            batch_size=batch, latent=latent,
        )  # fmt: skip
        return self.seen(samples)

    def found(self, cfg=CFG, start="shuffle", batch=1, size=None, **exemplar):
        """Those of the engine on diffusers."""
        _, negative, caption = self.prompts
        exemplars = [Exemplar(exemplar.pop("chain", self.ours), **exemplar)]
        return engine.sample(
            self.model, self.ours, exemplars, caption, negative, SEED, cfg, start, range(batch),
            size,
        )  # fmt: skip


@pytest.fixture(scope="module")
def hosts():
    return Hosts()


@pytest.fixture(scope="module")
def variation(hosts):
    """The widgets' defaults: replaced and normalised to percent 0.4, beside; cfg 3, two images."""
    return hosts.wanted(batch=2)


@pytest.mark.parametrize("sigma", [1.0, 0.6, 0.02])
def test_the_networks_are_the_same(hosts, sigma):
    x = tiny_dits.noise(hosts.comfy, 4, size=SIZE)
    with torch.no_grad():
        found = hosts.model.denoise(x, sigma, hosts.prompts[:2])
    for text, denoised in zip(hosts.texts, found):
        wanted = tiny_dits.velocity(hosts.comfy, x, sigma, text)
        assert graph.relative((x - denoised) / sigma, wanted) < 1e-5


def test_the_schedules_and_the_gates_times_are_the_same(hosts):
    from comfyui_rival.nodes import host

    sigmas = host.scheduler_sigmas(hosts.comfy, "simple", STEPS)
    assert torch.allclose(hosts.model.schedule(STEPS), sigmas, atol=1e-6)
    ours, theirs = hosts.model.timesteps, host.timesteps_of(hosts.comfy)
    assert ours.slack == theirs.slack
    for sigma in sigmas.tolist():
        assert ours.t(sigma) == pytest.approx(theirs.t(sigma), abs=1e-3)


def test_the_chains_are_the_same(hosts):
    error = graph.relative(hosts.ours.latents, hosts.theirs.latents)
    print(f"relative error of the chain {error:.1e}")
    assert error < TOLERANCE


def test_the_variations_are_the_same(hosts, variation):
    error = graph.relative(hosts.found(batch=2), variation)
    print(f"relative error of the variations {error:.1e}")
    assert error < TOLERANCE


@pytest.mark.any_host
@pytest.mark.parametrize(
    "run, steered",
    [
        ({}, {"positions": "shuffled"}),
        ({"start": "inverted"}, {"positions": "same"}),
        ({}, {"strength": 0.5}),
        ({"size": (12, 6), "start": "gaussian"}, {}),
        ({"cfg": 1.0}, {}),
    ],
    ids=["shuffled", "same", "strength", "another size", "no guidance"],
)
def test_they_are_the_same_whatever_is_asked(hosts, variation, run, steered):
    wanted = hosts.wanted(**run, **steered)
    assert graph.relative(hosts.found(**run, **steered), wanted) < TOLERANCE
    if "size" not in run:
        assert graph.relative(wanted, variation[:1]) > 100 * TOLERANCE


# --- what they would not be the same with --------------------------------------------------------

arranged_rows, displacements = joint.arranged_rows, joint.displacements


def naive(own, images, photos, sets, replace):
    """The photo's keys without the text's once more."""
    if replace:
        return arranged_rows(own, images, photos, sets, replace)
    return torch.cat([own, torch.cat(photos).repeat_interleave(len(own) // 2, dim=0)], dim=-2)


def image_first(own, images, photos, sets, replace):
    """As if the image's keys were before the text's."""
    count = images[0].stop - images[0].start
    return arranged_rows(own, [slice(0, count)], photos, sets, replace)


def to_the_left(*given):
    return -displacements(*given)


def in_place(positions, photo, target):
    return None


PATCHES = {
    "naive": ("arranged_rows", naive),
    "image first": ("arranged_rows", image_first),
    "to the left": ("displacements", to_the_left),
    "in place": ("displacements", in_place),
}
MISTAKES = {
    "never replaced": {"gates": Gates(replace_end=0.0)},
    "always replaced": {"gates": Gates(replace_end=1.0)},
    "a step too long": {"gates": Gates(replace_end=0.51, normalize_end=0.51)},
    "not normalised": {"gates": Gates(normalize_end=0.0)},
    "without a photo": {"strength": 0.0},
}


@pytest.mark.any_host
@pytest.mark.parametrize("name", [*PATCHES, *MISTAKES, "rows swapped"])
def test_a_mistake_in_one_of_them_would_be_noticed(hosts, variation, name, monkeypatch):
    if name in PATCHES:
        monkeypatch.setattr(joint, *PATCHES[name])
    given = dict(MISTAKES.get(name, {}))
    if name == "rows swapped":
        own = hosts.ours
        given["chain"] = replace(own, positive=own.negative, negative=own.positive)
    error = graph.relative(hosts.found(batch=2, **given), variation)
    print(f"{name}: {error:.1e}")
    assert error > 100 * TOLERANCE
