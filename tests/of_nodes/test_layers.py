"""layers: which self-attention layers read the photo."""

from __future__ import annotations

import graph
import pytest
import torch
from comfyui_rival.rival_core.chain.chain import ModelCard
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.steering.exemplar import LAYERS, Exemplar, choose_layers
from comfyui_rival.rival_core.steering.gates import Gates
from comfyui_rival.rival_core.steering.step import steering
from spies import key_lengths

pytestmark = pytest.mark.host
CONCAT = {"replace_end": 0.0, "normalize_end": 0.0}


@pytest.fixture(scope="module")
def setup():
    import tiny

    model = tiny.build("sd15")
    prompts = [tiny.conditioning(model, i) for i in (1, 2)]
    chains = [graph.invert(model, tiny.latent(seed, size=8), prompts[0], steps=5)[0]
              for seed in (2, 3)]
    return {"model": model, "prompts": prompts, "chains": chains}


def sample(setup, model):
    return graph.rival_sample(model, setup["chains"][0], *setup["prompts"])


def longer(setup, model) -> set:
    """The layers whose keys are longer than in the plain model."""
    with key_lengths(setup["model"]) as plain:
        sample(setup, setup["model"])
    with key_lengths(setup["model"]) as patched:
        sample(setup, model)
    assert all(plain.values()) and plain.keys() == patched.keys()
    return {layer for layer in plain if patched[layer] != plain[layer]}


@pytest.mark.parametrize("name", LAYERS)
def test_the_chosen_layers_read_the_photo_and_no_others(setup, name):
    model, chain = setup["model"], setup["chains"][0]
    every = {(block, depth) for block, depth, _ in chain.model.layers}
    patched = graph.patch(model, chain, layers=name, **CONCAT)
    assert longer(setup, patched) == (choose_layers(chain.model, name) or every)


def test_the_choices_divide_the_layers_as_they_say(setup):
    card = setup["chains"][0].model
    every = {(block, depth) for block, depth, _ in card.layers}
    coarse, fine = choose_layers(card, "coarse"), choose_layers(card, "fine")
    assert coarse and fine and coarse | fine == every and not coarse & fine
    width = {(block, depth): width for block, depth, width in card.layers}
    assert min(width[x] for x in coarse) > max(width[x] for x in fine)
    assert {block for (block, _), _ in choose_layers(card, "decoder")} == {"output"}
    assert choose_layers(card, "all") is None


def test_every_choice_makes_another_image(setup):
    model, chain = setup["model"], setup["chains"][0]
    images = [sample(setup, graph.patch(model, chain, layers=name)) for name in LAYERS]
    for i, a in enumerate(images):
        assert all(graph.relative(a, b) > 1e-3 for b in images[i + 1 :])


def test_two_photos_in_different_layers_are_each_read_in_their_own(setup):
    model, (a, b) = setup["model"], setup["chains"]
    one = graph.patch(graph.patch(model, a, layers="coarse"), b, layers="fine", strength=0.5)
    two = graph.patch(graph.patch(model, b, layers="fine", strength=0.5), a, layers="coarse")
    assert graph.relative(sample(setup, one), sample(setup, two)) < 1e-5
    acting = steering([Exemplar(a, Gates(), 1.0, choose_layers(a.model, "coarse")),
                       Exemplar(b, Gates(), 0.5, choose_layers(b.model, "fine"))], 900)
    for layer in choose_layers(a.model, "coarse"):
        assert [e.chain for e in acting.at(layer).readers] == [a]
        assert acting.at(layer).attention_strength == 1.0
    for layer in choose_layers(a.model, "fine"):
        assert [e.chain for e in acting.at(layer).readers] == [b]
        assert acting.at(layer).attention_strength == 0.5


def test_a_photo_that_only_some_layers_read_does_not_undo_anothers_replacing(setup):
    a, b = setup["chains"]
    acting = steering([Exemplar(a), Exemplar(b, Gates(replace_end=0.0), 1.0,
                                             choose_layers(b.model, "fine"))], 900)
    coarse, fine = (next(iter(choose_layers(a.model, name))) for name in ("coarse", "fine"))
    assert acting.at(coarse).replace and not acting.at(fine).replace


def test_bad_input(setup):
    with pytest.raises(RivalError, match=r"'fine' and this model has no such layer: choose all"):
        choose_layers(ModelCard("SD15", "SD15", ((("input", 1), 0, 320),)), "fine")
    with pytest.raises(ValueError, match=r"^RIVAL Patch Model: layers is 'inner': .*\.$"):
        graph.patch(setup["model"], setup["chains"][0], layers="inner")


def test_fractional_strength_blends_in_its_layers_only(setup):
    from comfyui_rival.nodes.host.unet import Lending
    from comfyui_rival.nodes.steering.reader import Reader
    from comfyui_rival.rival_core.steering.step import Step

    chain = setup["chains"][0]
    coarse = choose_layers(chain.model, "coarse")
    step = Step(1.0, steering([Exemplar(chain, Gates(), 0.5, coarse)], 500))
    step.tokens[id(chain), "positive"] = {
        (block, depth): None for block, depth, _ in chain.model.layers}
    replaced = Lending(Reader(step, {}), set()).replaces()
    assert set(replaced) == {(*block, depth) for block, depth in coarse}
    assert torch.isfinite(
        sample(setup, graph.patch(setup["model"], chain, layers="coarse", strength=0.5))).all()
