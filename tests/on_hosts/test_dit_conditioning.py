"""RIVAL on DiTs beside what prompts bring along: regions, control, references, LoRA."""

from __future__ import annotations

import dit_rows
import dits
import graph
import pytest
import tiny_dits
import torch
from composing import run_node, watched
from dit_rows import Row
from dits import CONCAT, FEW, MODES, REPLACE, SIGMA, half
from graph import relative

pytestmark = pytest.mark.host
SAME = {"positions": "same"}


@pytest.fixture(scope="module", params=FEW)
def family(request):
    dits.name_of(request.param)
    return request.param


def unchanged(family, positive, negative=None, model=None, chain=None, cfg=1.0, x=None, limit=1e-5):
    """Beside the photo itself, in both modes, the model predicts what it does alone."""
    model, x = model or dits.model_of(family), dits.noise(family) if x is None else x
    chain = chain or dits.photo(family, x, positive, negative)
    plain = dits.velocity(model, x, positive, negative, cfg)
    for mode in MODES.values():
        steered = dits.patched(model, (chain, {**mode, **SAME}))
        assert relative(dits.velocity(steered, x, positive, negative, cfg), plain) < limit
    return plain


def region(conditioning, columns: slice, bounds="default"):
    from nodes import ConditioningSetMask

    mask = torch.zeros(1, 64, 128)
    mask[..., columns] = 1
    return run_node(ConditioningSetMask, conditioning, mask, set_cond_area=bounds, strength=1.0)[0]


def area(conditioning):
    from nodes import ConditioningSetArea

    return run_node(ConditioningSetArea, conditioning, width=64, height=64, x=64, y=0,
                    strength=0.8)[0]


REGIONS = {
    "mask": lambda prompt: region(prompt, slice(0, 64)),
    "mask bounds": lambda prompt: region(prompt, slice(0, 64), "mask bounds"),
    "area": area,
}


@pytest.mark.parametrize("name", REGIONS)
def test_every_row_of_regions_is_that_row_alone(family, name):
    """Of its own size, place and length of text, beside the whole photo; swapped texts differ."""
    if name == "mask bounds" and dits.noise(family).ndim == 5:
        pytest.skip("the host bounds masks of four dimensions alone")
    x, chain = dits.noise(family, size=(8, 16)), dits.chain_of(family)
    sigma = float(chain.sigmas[2])
    model = dits.patched(family, (chain, CONCAT))
    positive = [*dits.prompt(family, 3), *REGIONS[name](dits.prompt(family, 5, tokens=40))]
    with watched(model) as seen:
        dits.velocity(model, x, positive, dits.prompt(family, 4), 3.0, sigma)
    rows = [row for row in seen if not torch.equal(row.x, chain.at(sigma))]
    assert len(rows) == (4 if name != "mask" else 3)
    assert {row.x.shape[-1] for row in rows} == ({16} if name == "mask" else {8, 16})
    for row in rows:
        one = next(p for p in (dits.prompt(family, 3), dits.prompt(family, 4),
                               dits.prompt(family, 5, tokens=40))
                   if p[0][0].shape[1] <= row.text.shape[1]
                   and torch.equal(p[0][0][0], row.text[0, : p[0][0].shape[1]]))
        alone = dits.velocity(model, row.x, one, sigma=sigma)
        assert relative((row.x - row.denoised) / sigma, alone) < 1e-5


def test_calls_split_for_want_of_memory(family, monkeypatch):
    x, chain = dits.noise(family, batch=2), dits.chain_of(family, negative=True)
    model = dits.patched(family, (chain, {**CONCAT, "mask": half()}))
    prompts = dits.prompt(family, 3), dits.prompt(family, 4)
    together = dits.velocity(model, x, *prompts, 3.0)
    required = model.model.memory_required
    short = lambda shape, *args, **kwargs: (  # noqa: E731
        1e30 if shape[0] > 2 else required(shape, *args, **kwargs))
    monkeypatch.setattr(model.model, "memory_required", short)
    with watched(model) as seen:
        split = dits.velocity(model, x, *prompts, 3.0)
    assert [row.call for row in seen][-4:] in ([1, 1, 2, 2], [2, 2, 3, 3])
    assert relative(split, together) < 2e-6


# --- LoRA ----------------------------------------------------------------------------------------

ATTENTION = ("qkv", "to_q", "to_k", "to_v", "self_attn.q", "self_attn.k", "self_attn.v",
             "add_k_proj", "add_v_proj")


def changes(family) -> dict[str, torch.Tensor]:
    """Low-rank changes of what makes queries, keys and values, by the weights' names."""
    generator, found = torch.Generator().manual_seed(3), {}
    for name, weight in dits.model_of(family).model.state_dict().items():
        if name.endswith(tuple(f"{one}.weight" for one in ATTENTION)):
            up, down = (torch.randn(n, 4, generator=generator) for n in weight.shape)
            found[name] = weight.std() * up @ down.T / 4
    assert found
    return found


def test_a_lora_on_queries_keys_and_values(family):
    model, delta = tiny_dits.build(dits.name_of(family)), changes(family)  # changed while loaded
    model.add_patches({name: ("diff", (change,)) for name, change in delta.items()})
    plain = unchanged(family, dits.prompt(family, 1), model=model)
    assert relative(plain, dits.velocity(dits.model_of(family), dits.noise(family),
                                         dits.prompt(family, 1))) > 1e-2
    model.unpatch_model()


def hooked(family, conditioning):
    import comfy.hooks

    hook = comfy.hooks.WeightHook(1.0, 0.0)
    hook.weights = {name: ("diff", (change,)) for name, change in changes(family).items()}
    hook.need_weight_init = False
    group = comfy.hooks.HookGroup()
    group.add(hook)
    return comfy.hooks.set_hooks_for_conditioning(conditioning, group)


def test_a_lora_of_one_prompt(family):
    """In both; and in the photo's alone, which then has the other weights' keys."""
    x, prompt = dits.noise(family), dits.prompt(family, 1)
    both = hooked(family, prompt)
    changed = unchanged(family, both, model=tiny_dits.build(dits.name_of(family)))
    model = tiny_dits.build(dits.name_of(family))
    plain = dits.velocity(model, x, prompt)
    one = dits.patched(model, (dits.photo(family, x, both), {**REPLACE, **SAME}))
    found = dits.velocity(one, x, prompt)
    assert relative(found, plain) > 1e-3 and relative(found, changed) > 1e-3
    assert torch.equal(dits.velocity(model, x, prompt), plain)


# --- control -------------------------------------------------------------------------------------

WHERE = {"flux": ("input", "output"), "qwen": ("input",), "sd3": ("output",)}


def residuals(family, rows: int) -> dict:
    """What a ControlNet of this family adds to the image's tokens of so many rows."""
    generator = torch.Generator().manual_seed(8)
    card = dits.photo(family, dits.noise(family), dits.prompt(family, 1)).model
    one = [torch.randn(1, 16, card.layers[0][2], generator=generator) for _ in range(2)]
    return {where: [r.expand(rows, -1, -1) for r in one] for where in WHERE[family]}


def controlled(family, conditioning):
    import comfy.controlnet

    class StandIn(comfy.controlnet.ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, *_):
            return residuals(family, len(x_noisy))

    return [[tokens, {**options, "control": StandIn(), "control_apply_to_uncond": True}]
            for tokens, options in conditioning]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", WHERE)
def test_control_reaches_the_rows_alone(family, mode):
    x, mode = dits.noise(family), MODES[mode]
    chain = dits.photo(family, dits.noise(family, 5), dits.prompt(family, 1))
    model = dits.patched(family, (chain, {**mode, **SAME}))
    found = dits.velocity(model, x, controlled(family, dits.prompt(family, 3)))
    rows = [Row(chain.latents[1:], chain.positive),
            Row(x, dits.prompt(family, 3), reads=[0], own=mode is CONCAT, shares=[1.0])]
    of_both = residuals(family, 2)
    for one in of_both.values():
        one[:] = [torch.cat([torch.zeros_like(r[:1]), r[1:]]) for r in one]
    *_, expected = dit_rows.denoise(dits.model_of(family), family, rows, SIGMA, control=of_both)
    assert relative(found, (x - expected) / SIGMA) < 1e-5
    assert relative(found, dits.velocity(model, x, dits.prompt(family, 3))) > 1e-2


def test_control_of_a_model_patch_reaches_the_rows_alone(monkeypatch):
    """Qwen-Image's and Z-Image's ControlNets are patches of the MODEL, fitted to the new image."""
    from comfyui_rival.nodes import host

    def control(given):
        assert given["img"].shape[1] == 16, "fitted to the new image"
        given["img"] += residuals("qwen", 1)["input"][0]
        return given

    x, prompt = dits.noise("qwen"), dits.prompt("qwen", 3)
    chain = dits.chain_of("qwen", size=(6, 6))
    patched = dits.model_of("qwen").clone()
    patched.set_model_double_block_patch(control)
    found, evaluate = [], host.evaluate

    def spy(model, conds, x, sigma, options):
        out = evaluate(model, conds, x, sigma, options)
        tokens = options["transformer_options"]["rival"].tokens["positive"]
        found.append(torch.cat([kept.value for kept in tokens.values()]))
        return out

    monkeypatch.setattr(host, "evaluate", spy)
    with_control, without = (dits.velocity(dits.patched(model, (chain, CONCAT)), x, prompt)
                             for model in (patched, dits.model_of("qwen")))
    assert torch.equal(*found) and relative(with_control, without) > 1e-2
    latent = tiny_dits.latent(patched, 100, size=(6, 6))
    again, _ = graph.invert(patched, latent, dits.prompt("qwen", 1), steps=4, schedule="simple")
    assert torch.equal(again.latents, chain.latents)


# --- what joins the tokens -----------------------------------------------------------------------


def with_references(family, conditioning, *seeds: int, size=(8, 8)):
    references = [tiny_dits.latent(dits.model_of(family), seed, size=size)["samples"]
                  for seed in seeds]
    return [[tokens, {**options, "reference_latents": references}]
            for tokens, options in conditioning]


@pytest.mark.parametrize("family", ["flux", "qwen"])
def test_references_beside_a_photo(family):
    """Both have them; or one of them has."""
    bare = dits.prompt(family, 1)
    prompt = with_references(family, bare, 21, 22, size=(6, 4))
    plain = unchanged(family, prompt, bare, cfg=3.0)
    x = dits.noise(family)
    assert relative(plain, dits.velocity(dits.model_of(family), x, bare, bare, 3.0)) > 1e-3
    for photos, rows in ((prompt, bare), (bare, prompt)):
        model = dits.patched(family, (dits.photo(family, x, photos), {**CONCAT, "mask": half()}))
        assert torch.isfinite(dits.velocity(model, x, rows, bare, 3.0)).all()


@pytest.mark.parametrize("where", ["photo", "rows"])
@pytest.mark.parametrize("name", ["zimage", "omnigen2"])
def test_references_that_cannot_be_told_from_the_image(name, where):
    from comfyui_rival.rival_core.errors import RivalError

    family, x = dits.name_of(name), dits.noise(dits.name_of(name))
    bare = dits.prompt(family, 1)
    prompt = with_references(family, bare, 21)
    of_photo, of_rows = (prompt, bare) if where == "photo" else (bare, prompt)
    model = dits.patched(family, (dits.photo(family, x, of_photo), CONCAT))
    with pytest.raises(RivalError, match=r"^RIVAL Patch Model: [^\n]*reference[^\n]*\.$"):
        dits.velocity(model, x, of_rows)


@pytest.mark.parametrize("bounded", [False, True], ids=["redux", "region"])
def test_masks_of_flux_are_lengthened_for_every_query(bounded):
    """Redux weakens its tokens so, and nodes of regions keep texts to their places."""
    family, n = "flux", 24
    (tokens, options), = dits.prompt(family, 1)
    mask = torch.zeros(1, n + 16, n + 16)
    mask[:, :, 12:n] = -1.5
    if bounded:
        mask[:, n : n + 8, :12] = mask[:, n + 8 :, 12:n] = -torch.inf
    with_mask = [[tokens, {**options, "attention_mask": mask, "attention_mask_img_shape": (4, 4)}]]
    masked = unchanged(family, with_mask)
    x = dits.noise(family)
    assert relative(masked, dits.velocity(dits.model_of(family), x, [[tokens, options]])) > 1e-2
    other = dits.photo(family, dits.noise(family, 5), with_mask)
    for settings in ({"mask": half()}, {"strength": 0.5}):
        model = dits.patched(family, (other, {**CONCAT, **SAME, **settings}))
        found = dits.velocity(model, x, with_mask)
        rows = [Row(other.latents[1:], with_mask),
                Row(x, with_mask, reads=[0], shares=[0.5 if "strength" in settings
                                                     else torch.tensor([1.0, 1, 0, 0]).repeat(4)])]
        *_, expected = dit_rows.denoise(dits.model_of(family), family, rows, SIGMA)
        assert relative(found, (x - expected) / SIGMA) < 1e-5
