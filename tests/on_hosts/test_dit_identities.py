"""RIVAL on DiTs: what must hold in one model call, for every family that the host has."""

from __future__ import annotations

from collections import defaultdict

import pytest
import tiny_dits
import torch
from dit_predictions import SIGMA, apart, guided, photo

pytestmark = pytest.mark.host
MODES = {"replace": 1.0, "concat": 0.0}
SMALL, WIDE = (8, 8), (8, 16)


@pytest.fixture(scope="module", params=tiny_dits.FAMILIES)
def dit(request):
    if request.param not in tiny_dits.available():
        pytest.skip(f"this ComfyUI has no {request.param}")
    return tiny_dits.build(request.param)


def steered(model, chain, mode, **exemplar):
    from comfyui_rival.nodes.steering.run import align
    from comfyui_rival.rival_core.steering.exemplar import Exemplar
    from comfyui_rival.rival_core.steering.gates import Gates

    gates = Gates(replace_end=MODES[mode], normalize_end=0.0)
    return align(model, Exemplar(chain, gates, **exemplar))


@pytest.mark.parametrize("mode", MODES)
def test_the_photo_itself_changes_nothing(dit, mode):
    x, prompt = tiny_dits.noise(dit, 1), tiny_dits.conditioning(dit, 1)
    plain = tiny_dits.velocity(dit, x, SIGMA, prompt)
    model = steered(dit, photo(dit, x, prompt), mode, positions="same")
    assert apart(tiny_dits.velocity(model, x, SIGMA, prompt), plain) < 1e-5
    other = steered(dit, photo(dit, tiny_dits.noise(dit, 2), prompt), mode, positions="same")
    assert apart(tiny_dits.velocity(other, x, SIGMA, prompt), plain) > 1e-2
    assert torch.equal(tiny_dits.velocity(dit, x, SIGMA, prompt), plain)


@pytest.mark.parametrize("mode", MODES)
def test_every_row_reads_the_photo_of_its_own_prompt(dit, mode):
    """With a negative of another length, at a guidance, in one call; swapped rows would differ."""
    x = tiny_dits.noise(dit, 1)
    positive, negative = (tiny_dits.conditioning(dit, i, tokens=n) for i, n in ((1, 24), (2, 40)))
    plain = guided(dit, x, positive, negative)
    for chain, near in ((photo(dit, x, positive, negative), True),
                        (photo(dit, x, negative, positive), False)):  # fmt: skip
        model = steered(dit, chain, mode, positions="same")
        assert (apart(guided(model, x, positive, negative), plain) < 1e-5) is near


MASKED = ("ZImage", "Lumina2", "QwenImage", "Lens", "Ideogram4")


@pytest.mark.parametrize("mode", MODES)
def test_captions_that_are_padded_to_one_length(dit, mode):
    """Their masks are lengthened with the keys, and an image may begin at its own text's end."""
    if type(dit.model.model_config).__name__ not in MASKED:
        pytest.skip("takes no mask for its text")
    x, prompts = tiny_dits.noise(dit, 1), []
    for seed, valid in ((1, 20), (2, 9)):
        (tokens, options), = tiny_dits.conditioning(dit, seed)
        mask = torch.zeros(1, tokens.shape[1], dtype=torch.long)
        mask[:, :valid] = 1
        prompts.append([[tokens, {**options, "attention_mask": mask}]])
    plain = guided(dit, x, *prompts)
    model = steered(dit, photo(dit, x, *prompts), mode, positions="same")
    assert apart(guided(model, x, *prompts), plain) < 1e-5


def test_a_batch_is_its_images(dit):
    x = tiny_dits.noise(dit, 3, batch=2)
    positive, negative = (tiny_dits.conditioning(dit, i) for i in (1, 2))
    model = steered(dit, photo(dit, tiny_dits.noise(dit, 4), positive), "concat")
    singles = torch.cat([guided(model, one, positive, negative) for one in x.split(1)])
    assert apart(guided(model, x, positive, negative), singles) < 2e-6


@pytest.mark.parametrize("positions", ["beside", "shuffled"])
def test_a_photo_of_another_size(dit, positions):
    x, prompt = tiny_dits.noise(dit, 1), tiny_dits.conditioning(dit, 1)
    chain = photo(dit, tiny_dits.noise(dit, 2, size=(4, 12)), prompt)
    plain = tiny_dits.velocity(dit, x, SIGMA, prompt)
    for mode in MODES:
        model = steered(dit, chain, mode, positions=positions)
        found = tiny_dits.velocity(model, x, SIGMA, prompt)
        assert torch.isfinite(found).all() and apart(found, plain) > 1e-2


def recorded(model, x, prompt) -> dict:
    """What the photo's call keeps of each layer, and the network."""
    from comfyui_rival.nodes import host
    from comfyui_rival.nodes.steering.recorder import Recorder

    recorder = Recorder(defaultdict(lambda: "all"), host.model_card(model).every_layer)
    recorder.tokens = {"all": {}}
    watched = model.clone()
    watched.model_options = host.port_of(model).recording(watched.model_options, recorder)
    tiny_dits.velocity(watched, x, SIGMA, prompt)
    return recorder.tokens["all"]


def first_layer(model, x, prompt):
    """The image's keys where they depend on nothing but their own patch, and their place."""
    tokens = recorded(model, x, prompt)
    return tokens[min(tokens)]


# Ideogram's images lie at 65536, where a float32 knows an angle to some 1e-4.
CENTRED = ("QwenImage", "Lens", "MageFlow")  # their images' middles have the same place


def test_moved_keys_are_the_keys_of_an_image_that_lies_there(dit):
    """Against the network itself: the right half of a wide image, and the photo moved there."""
    from comfyui_rival.nodes import host
    from comfyui_rival.rival_core.steering.positions import rotated

    port = host.port_of(dit)
    if not port.has_positions:
        pytest.skip("no positions to move among")
    prompt, network = tiny_dits.conditioning(dit, 1), dit.model.diffusion_model
    wide = tiny_dits.noise(dit, 1, size=WIDE)
    right, (_, columns) = wide[..., 8:], port.grid(network, SMALL)
    alone, whole = (first_layer(dit, x, prompt) for x in (right.contiguous(), wide))
    heads = alone.context.shape[1] if alone.context.ndim == 4 else 4
    family = type(dit.model.model_config).__name__
    centred, far = family in CENTRED, family == "Ideogram4"
    moves = torch.tensor([[0.0, float(columns - columns // 2 * centred)]])
    turned = rotated(alone.context, port.rotary.of(network, moves, 0.0), heads, port.rotary.halves)
    there = whole.context.unflatten(-2, (-1, 2 * columns))[..., columns:, :].flatten(-3, -2)
    assert apart(turned, there) < (1e-3 if far else 1e-5)
    assert apart(alone.context, there) > 1e-2


def test_what_is_kept_are_the_keys_of_the_image(dit):
    """At the first layer another patch changes that one value, and another text none of them."""
    from comfyui_rival.nodes import host

    prompt = tiny_dits.conditioning(dit, 1)
    x = tiny_dits.noise(dit, 1)
    other = x.clone()
    other[..., -1, -1] += 1
    before, after = (first_layer(dit, one, prompt) for one in (x, other))
    rows, columns = host.port_of(dit).grid(dit.model.diffusion_model, SMALL)
    assert before.count == rows * columns
    changed = (before.value != after.value).transpose(-2, 0).flatten(1).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [before.count - 1]
    text = [[tiny_dits.conditioning(dit, 2)[0][0], prompt[0][1]]]
    assert torch.equal(first_layer(dit, x, text).value, before.value)


def test_a_photo_follows_the_texts_length(dit):
    """Where an image's place depends on its prompt's length, the photo is put beside the rows."""
    from comfyui_rival.nodes import host
    from comfyui_rival.rival_core.steering.positions import rotated

    port, network = host.port_of(dit), dit.model.diffusion_model
    if not port.has_positions:
        pytest.skip("no positions to move among")
    x = tiny_dits.noise(dit, 1)
    prompts = [tiny_dits.conditioning(dit, 1, tokens=n) for n in (24, 72)]
    pooled = {k: v for k, v in prompts[0][0][1].items() if k == "pooled_output"}
    prompts[1][0][1].update(pooled)  # which every token's scale depends on
    short, long = (first_layer(dit, x, prompt) for prompt in prompts)
    turned = short.context
    if longer := long.place - short.place:
        heads = turned.shape[1] if turned.ndim == 4 else 4
        rotation = port.rotary.of(network, torch.zeros(1, 2), longer)
        turned = rotated(turned, rotation, heads, port.rotary.halves)
    assert apart(turned, long.context) < 1e-5
