"""The pack as any client of a headless ComfyUI meets it: prompts in, pictures and events out."""

from __future__ import annotations

import re

import prompts
import pytest
from serving import pictures

np = pytest.importorskip("numpy")  # both come with a host's requirements
comfy_process = pytest.importorskip("comfy_process")

pytestmark = pytest.mark.host

SAMPLING = {"sample", "decode", "images"}


def run(server, prompt: dict) -> np.ndarray:
    return pictures(server, server.run(prompt))


def steps_reported(outcome: comfy_process.Outcome, node: str) -> list[tuple[int, int]]:
    return [(value, maximum) for name, value, maximum in outcome.progress if name == node]


def difference(a: np.ndarray, b: np.ndarray) -> int:
    """The largest, in levels of 255."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_three_nodes_give_a_batch_of_variations(server):
    images = run(server, prompts.variation(batch=3))
    assert images.shape == (3, prompts.HEIGHT, prompts.WIDTH, 3)
    assert images.std() > 5
    assert difference(images[0], images[1]) > 20


@pytest.mark.any_host
def test_the_seed_decides_the_image(server):
    """Three full runs of the sampler: a host keeps only the last prompt's results."""
    first, other, again = (run(server, prompts.variation(seed=seed)) for seed in (11, 12, 11))
    assert difference(first, again) == 0
    assert difference(first, other) > 20


@pytest.mark.any_host
def test_features_cached_by_one_prompt_give_the_next_the_live_image(server):
    live = run(server, prompts.variation(seed=82))
    cached = {"patch": prompts.patch(features="cached")}
    first = server.run(prompts.variation(seed=81) | cached)
    second = server.run(prompts.variation(seed=82) | cached)
    assert "invert" not in {*first.started, *second.started}
    assert difference(pictures(server, second), live) == 0


@pytest.mark.any_host
def test_features_handed_over_by_the_inversion_give_the_live_image(server):
    exact = prompts.variation(seed=83) | prompts.exemplar(solver="anderson", tolerance=1e-5)
    exact["invert"]["inputs"]["iterations"] = 30
    live = run(server, exact)
    exact["invert"]["inputs"]["features"] = "cached"
    outcome = server.run(exact | {"patch": prompts.patch(features="cached")})
    kept = re.search(r"features of (\d) of 6 steps are kept", outcome.text("invert"))
    assert int(kept[1]) >= 2
    assert difference(pictures(server, outcome), live) <= 3


def test_an_unchanged_inversion_is_not_run_again(server):
    first = server.run(prompts.variation(steps=7, seed=21))
    assert {"invert", "patch"} | SAMPLING <= set(first.started)
    assert server.run(prompts.variation(steps=7, seed=21)).started == []
    assert set(server.run(prompts.variation(steps=7, seed=22)).started) == SAMPLING
    patched = prompts.variation(steps=7, seed=22) | {"patch": prompts.patch(strength=0.5)}
    assert set(server.run(patched).started) == {"patch"} | SAMPLING


def test_inversion_reports_its_steps_with_previews(server):
    inversion = prompts.exemplar(steps=9)
    inversion |= {
        "decode": prompts.node("VAEDecode", samples=["invert", 1], vae=["checkpoint", 2]),
        "images": prompts.node("PreviewImage", images=["decode", 0]),
    }
    outcome = server.run(inversion)
    reported = steps_reported(outcome, "invert")
    assert [value for value, _ in reported] == sorted(value for value, _ in reported)
    assert reported[-1] == (9, 9) and {maximum for _, maximum in reported} == {9}
    assert outcome.previews >= 3
    assert pictures(server, outcome).shape == (1, prompts.HEIGHT, prompts.WIDTH, 3)
    assert "9 steps" in outcome.text("invert")


@pytest.mark.any_host
def test_exact_inversion_reports_its_evaluations_and_its_residual(server):
    inversion = prompts.exemplar(steps=7, solver="anderson", tolerance=0.0)
    inversion["check"] = prompts.node(
        "RivalReconstruct", model=["checkpoint", 0], chain=["invert", 0], vae=["checkpoint", 2]
    )
    inversion["images"] = prompts.node("PreviewAny", source=["check", 3])
    outcome = server.run(inversion)
    reported = steps_reported(outcome, "invert")
    assert reported[-1] == (35, 35) and {maximum for _, maximum in reported} == {35}
    assert steps_reported(outcome, "check")[-1] == (7, 7)
    shown = outcome.text("invert")
    assert "35 model evaluations" in shown and "anderson: residual" in shown
    assert "did not converge at 7 of 7 steps" in shown
    assert "latent: MSE" in outcome.text("check") and "image: MSE" in outcome.text("check")


def test_sampling_reports_its_steps_with_previews(server):
    server.run(prompts.variation(steps=8, seed=31))
    outcome = server.run(prompts.variation(steps=8, seed=32))
    assert steps_reported(outcome, "invert") == []
    reported = steps_reported(outcome, "sample")
    assert reported[-1] == (8, 8) and {maximum for _, maximum in reported} == {8}
    assert outcome.previews >= 3


@pytest.fixture(scope="module")
def before(server) -> list[np.ndarray]:
    """A variation, and what core makes of the loader's model."""
    asked = prompts.variation(seed=41), prompts.core_sampler("checkpoint")
    return [run(server, prompt) for prompt in asked]


@pytest.mark.parametrize("node", [
    pytest.param("invert", marks=pytest.mark.any_host), "sample", "an iteration of invert",
])
def test_interrupting_leaves_nothing_behind(server, node, before):
    variation, vanilla = before
    long = {"sample": {"steps": 20, "batch": 4}}.get(node, {"steps": 100})
    stopped = prompts.variation(seed=42, **long)
    if node == "an iteration of invert":
        stopped |= prompts.exemplar(100, solver="anderson", tolerance=0.0)

    def interrupt(name, value, maximum):
        if name == node.split()[-1] and value == 2:
            server.interrupt()

    with pytest.raises(comfy_process.Interrupted):
        server.run(stopped, on_progress=interrupt)
    outcome = server.run(prompts.variation(seed=41))
    assert "sample" in outcome.started
    assert difference(pictures(server, outcome), variation) == 0
    assert difference(run(server, prompts.core_sampler("checkpoint")), vanilla) == 0


def test_bypassing_the_patch_is_vanilla(server):
    """Core's KSampler on the loader's model, before and after a patched run."""
    before = run(server, prompts.core_sampler("checkpoint", seed=51))
    patched = run(server, prompts.core_sampler("patch", seed=51))
    after = run(server, prompts.core_sampler("checkpoint", seed=51))
    assert difference(before, after) == 0
    assert difference(before, patched) > 20


def test_core_custom_sampling_equals_our_sampler(server):
    ours = run(server, prompts.variation(seed=61))
    theirs = run(server, prompts.custom_sampler(seed=61))
    assert difference(ours, theirs) <= 2  # RIVAL KSampler divides by 1.0004


def test_an_unpatched_model_is_told_on_the_node(server):
    unpatched = prompts.variation(seed=71, model="checkpoint")
    assert "no RIVAL Patch Model" in server.run(unpatched).text("sample")
    assert server.run(prompts.variation(seed=71)).text("sample") == ""


def test_a_batch_of_exemplars_is_refused_by_the_node(server):
    prompt = prompts.variation()
    prompt["twice"] = prompts.node("RepeatLatentBatch", samples=["encode", 0], amount=2)
    prompt["invert"]["inputs"]["latent"] = ["twice", 0]
    with pytest.raises(comfy_process.ExecutionError, match=r"RIVAL Invert: .*batch of 2"):
        server.run(prompt)
    assert len(run(server, prompts.variation())) == 1


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_gate_outside_its_range_is_refused_before_anything_runs(server, value):
    prompt = prompts.variation() | {"patch": prompts.patch(replace_end=value)}
    with pytest.raises(comfy_process.ExecutionError, match=r"RivalPatchModel.*replace_end"):
        server.queue(prompt)


@pytest.mark.parametrize("changed, said", [
    ({"sample": {"eta": 0.5, "sampler_name": "dpmpp_2m"}}, "RIVAL KSampler: eta is 0.5 and"),
    ({"invert": {"features": "cached"}}, "RIVAL Invert: features is 'cached', and the solver ddim"),
    ({"invert": {"cfg": 3.0}}, "RIVAL Invert: cfg is 3.0 and no negative is connected"),
])
def test_what_widgets_decide_is_refused_before_anything_runs(server, changed, said):
    prompt = prompts.variation()
    for node, inputs in changed.items():
        prompt[node]["inputs"] |= inputs
    with pytest.raises(comfy_process.ExecutionError, match=said):
        server.queue(prompt)
