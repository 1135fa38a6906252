"""RIVAL Edit's walk on mixtures, against the published loops and what must hold of any pair."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from comfyui_rival.rival_core.editing import pair
from comfyui_rival.rival_core.inversion.scaling import FlowScaling
from mixtures import SD, Mixture, euler, sd_sigmas
from mutants import mutant

BOTH = pytest.mark.parametrize("flow", [False, True], ids=["eps", "flow"])


class Shifted(Mixture):
    """The same data somewhere else: another prompt."""

    def __init__(self, flow: bool = False, by: float = 0.7):
        super().__init__(flow)
        self.by = by

    def __call__(self, x, sigma):
        share = 1 - float(sigma[0]) if self.flow else 1.0
        return super().__call__(x - share * self.by, sigma) + self.by


class Noise:
    """Unit noise that can be drawn again, from the start."""

    def __init__(self, like: torch.Tensor, count: int = 40):
        generator = torch.Generator().manual_seed(3)
        drawn = torch.randn(count, *like.shape, generator=generator, dtype=like.dtype)
        self.drawn = drawn.unbind()
        self.rest = iter(self.drawn)

    def __call__(self) -> torch.Tensor:
        return next(self.rest)


def case(flow: bool, steps: int = 6, count: int = 2) -> SimpleNamespace:
    source, target = Mixture(flow), Shifted(flow)
    falling = torch.linspace(0.9, 0, steps + 1, dtype=torch.float64) if flow else (
        torch.cat([sd_sigmas(steps).flip(0)[:-1], torch.zeros(1)]))  # fmt: skip
    return SimpleNamespace(source=source, target=target, photo=source.data[:count], sigmas=falling,
                           scaling=FlowScaling() if flow else SD)


def edited(c, module=pair, noise: Noise | None = None, sigmas=None, **how) -> torch.Tensor:
    noise, sigmas = noise or Noise(c.photo), c.sigmas if sigmas is None else sigmas

    def noised(i: int) -> torch.Tensor:
        sigma = float(sigmas[i])
        return c.scaling.clean_share(sigma) * c.photo + sigma * noise()

    return module.walk_pair(c.target, c.source, c.photo, sigmas, noised,
                            c.scaling.clean_share, **how)


def away(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def at(model, x, sigma):
    return model(x, x.new_full([len(x)], sigma))


# --- the published loops, each in its own terms --------------------------------------------------


def flow_edit(c, average: int, tail: int) -> torch.Tensor:
    """FlowEdit's loop, in velocities: n_avg noises a step, the last n_min steps sampled plainly."""
    def velocity(model, z, t):
        return (z - at(model, z, t)) / t

    noise, times, z = Noise(c.photo), c.sigmas.tolist(), c.photo.clone()
    steps = list(zip(times, times[1:]))
    for t, following in steps[: len(steps) - tail]:
        mean = torch.zeros_like(z)
        for _ in range(average):
            x_src = (1 - t) * c.photo + t * noise()
            x_tar = z + x_src - c.photo
            mean += (velocity(c.target, x_tar, t) - velocity(c.source, x_src, t)) / average
        z = z + (following - t) * mean
    if tail:
        z = z + (1 - times[-1 - tail]) * c.photo + times[-1 - tail] * noise() - c.photo
    for t, following in steps[len(steps) - tail :]:
        z = z + (following - t) * velocity(c.target, z, t)
    return z


def ddcm(c, from_noise: bool) -> torch.Tensor:
    """InfEdit's DDCM with eta 1 and no attention control, in predicted noise and the latents that
    the model was trained on: an eps model's of unit variance, a flow's between picture and noise.
    """
    def scales(sigma: float) -> tuple[float, float]:
        if c.source.flow:
            return 1 - sigma, sigma
        kept = 1 / (1 + sigma**2)
        return kept**0.5, (1 - kept)**0.5

    def eps(model, z, sigma):
        share, spread = scales(sigma)
        return (z - share * at(model, z if c.source.flow else z / share, sigma)) / spread

    noise, levels = Noise(c.photo), c.sigmas.tolist()[:-1]
    clean = c.photo
    for i, sigma in enumerate(levels):
        (share, spread), fresh = scales(sigma), noise()
        z_s, z_t = (share * picture + spread * fresh for picture in (c.photo, clean))
        if from_noise and i == 0:
            z_s = z_t = fresh
        e_s, e_t = eps(c.source, z_s, sigma), eps(c.target, z_t, sigma)
        clean = c.photo + ((z_t - z_s) - spread * (e_t - e_s)) / share
    return clean


def of_flow_edit(module=pair, average: int = 1, tail: int = 0) -> float:
    c, how = case(flow=True), {"average": average}
    wanted = flow_edit(c, average, tail)
    noise = Noise(c.photo)
    if not tail:
        return away(edited(c, module, noise, **how), wanted)
    found = edited(c, module, noise, c.sigmas[:-tail], **how)
    sigma = float(c.sigmas[-1 - tail])
    start = found - c.photo + ((1 - sigma) * c.photo + sigma * noise())
    return away(euler(c.target, start, c.sigmas[-1 - tail :].tolist()), wanted)


def of_ddcm(module=pair, from_noise: bool = False, flow: bool = False) -> float:
    c = case(flow)
    noise, wanted = Noise(c.photo), ddcm(c, from_noise)
    if not from_noise:
        return away(edited(c, module, noise, path="direct"), wanted)

    def noised(i: int) -> torch.Tensor:
        sigma = float(c.sigmas[i])
        return c.photo + sigma * noise() if i else c.scaling.level(sigma) * noise()

    found = module.walk_pair(c.target, c.source, c.photo, c.sigmas, noised,
                             c.scaling.clean_share, path="direct")
    return away(found, wanted)


@pytest.mark.parametrize("average, tail", [(1, 0), (3, 0), (2, 2)])
def test_smooth_is_flow_edit(average, tail):
    assert of_flow_edit(average=average, tail=tail) < 1e-12


@pytest.mark.parametrize("from_noise", [False, True], ids=["noised photo", "pure noise"])
def test_direct_is_inf_edit(from_noise):
    assert of_ddcm(from_noise=from_noise) < 1e-12


def test_direct_is_inf_edit_of_a_flow():
    assert of_ddcm(flow=True) < 1e-12


# --- what must hold of any pair ------------------------------------------------------------------


def of_the_chain(module=pair, flow: bool = False) -> float:
    """On the latents of the photo's own walk it is plain sampling from where that walk began."""
    c = case(flow)
    xs, levels = [float(c.sigmas[0]) * Noise(c.photo)()], c.sigmas.tolist()
    for pairwise in zip(levels, levels[1:]):
        xs.append(euler(c.source, xs[-1], pairwise))
    found = module.walk_pair(c.target, c.source, xs[-1], c.sigmas, xs.__getitem__,
                             c.scaling.clean_share)
    return away(found, euler(c.target, xs[0], levels))


@BOTH
def test_on_the_chains_own_latents_it_is_plain_sampling(flow):
    assert of_the_chain(flow=flow) < 1e-12


@BOTH
@pytest.mark.parametrize("path", pair.PATHS)
def test_equal_prompts_give_the_photo_bitwise(flow, path):
    c = case(flow)
    c.target = c.source
    assert torch.equal(edited(c, path=path), c.photo)
    assert away(edited(case(flow), path=path), c.photo) > 0.1


@BOTH
def test_one_step_makes_both_paths_equal(flow):
    c = case(flow)
    for sigmas, alike in ((c.sigmas[[1, -1]], True), (c.sigmas[[0, 2, -1]], False)):
        smooth, direct = (edited(c, sigmas=sigmas, path=path) for path in ("smooth", "direct"))
        assert torch.equal(smooth, direct) == alike


def test_a_batch_item_is_its_single_run():
    c, noise = case(True, count=3), Noise(case(True, count=3).photo)
    together = edited(c, noise=noise, average=2)
    for i in range(3):
        alone, own = case(True, count=3), Noise(c.photo)
        alone.photo, own.rest = c.photo[i : i + 1], (n[i : i + 1] for n in own.drawn)
        torch.testing.assert_close(edited(alone, noise=own, average=2), together[i : i + 1],
                                   rtol=1e-12, atol=1e-12)


def test_the_average_is_of_the_differences():
    """Of one step, in which the edit is their difference, it is the mean of single edits."""
    c = case(True)
    one = c.sigmas[[0, -1]]
    mean = edited(c, sigmas=one, average=4)
    noise = Noise(c.photo)
    singles = [edited(c, noise=noise, sigmas=one) for _ in range(4)]
    torch.testing.assert_close(mean, torch.stack(singles).mean(0), rtol=1e-12, atol=1e-12)


def test_it_costs_two_calls_a_step_and_noise():
    c, states = case(True, steps=5), []
    edited(c, average=3, callback=states.append)
    assert c.source.rows == c.target.rows == [2] * 15
    assert [state["i"] for state in states] == [*range(5)]


def test_outside_the_mask_the_photo_stays_bitwise():
    c = case(True)
    mask = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    mask[..., 0], mask[..., 0, 1] = 1.0, 0.5
    found = edited(c, mask=mask)
    assert torch.equal(found[..., 1, 1], c.photo[..., 1, 1])
    assert (found[..., 0] - c.photo[..., 0]).abs().min() > 1e-3
    assert torch.equal(edited(c, mask=torch.ones_like(mask)), edited(c))


# --- mistakes ------------------------------------------------------------------------------------

MISTAKES = {
    "the change taken off": ("target(x + there", "target(x - there", of_flow_edit),
    "source less target": ("target(x + there, level) - source(x, level)",
                           "source(x, level) - target(x + there, level)", of_flow_edit),
    "the next level's call": ("photo.new_full([len(photo)], sigma)",
                              "photo.new_full([len(photo)], max(following, 0.1))", of_flow_edit),
    "no share of the step": ("keep * (following / sigma)", "keep", of_flow_edit),
    "the step turned over": ("following / sigma", "1 - following / sigma", of_the_chain),
    "direct as smooth": ('"direct": 0.0', '"direct": 1.0', of_ddcm),
    "all of a clean edit under noise": ("clean_share(sigma) * change", "change",
                                        lambda module: of_ddcm(module, flow=True)),
    "a share of FlowEdit's": ("change if keep else clean_share(sigma) * change",
                              "clean_share(sigma) * change", of_flow_edit),
    "a sum for the mean": (" / average", "", lambda module: of_flow_edit(module, average=3)),
    "one noise a step": ("            x = noised(i)\n", "            x = x if _ else noised(i)\n",
                         lambda module: of_flow_edit(module, average=3)),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_noticed(name):
    right, wrong, error = MISTAKES[name]
    assert error(pair) < 1e-12 and error(mutant(pair, right, wrong)) > 1e-3
