"""A batch of prompts in one CONDITIONING entry: none for a photo, one for each image."""

from __future__ import annotations

import graph
import pytest
import torch
from composing import chain_of, latent, model_of, prompt

pytestmark = pytest.mark.host


@pytest.mark.parametrize("slot", ["positive", "negative"])
@pytest.mark.parametrize("key", ["the tokens", "pooled_output", "concat_latent_image"])
def test_a_photo_has_one(slot, key):
    """The exemplar would take the first of them."""
    plain = prompt("sd15", 1)
    tokens, options = plain[0]
    rows = {"concat_latent_image": torch.zeros(1, 4, 8, 8), "the tokens": tokens, **options}
    rows[key] = torch.cat([rows[key], rows[key] + 1])
    prompts = {"positive": plain, "negative": plain, slot: [[rows.pop("the tokens"), rows]]}
    said = rf"^RIVAL Invert: {slot} holds 2 prompts in one entry \({key}\): .* CLIP Text Encode"
    with pytest.raises(ValueError, match=said):
        graph.invert(model_of("sd15"), {"samples": latent(1)}, steps=5, **prompts)


def test_the_images_have_each_their_own():
    """As the host gives them out; every image reads the photo."""
    chain, (one, other, negative) = chain_of(), (prompt("sd15", i) for i in (3, 5, 4))
    steered = graph.patch(model_of("sd15"), chain)
    both = [[torch.cat([one[0][0], other[0][0]]), one[0][1]]]
    images = graph.rival_sample(steered, chain, both, negative, batch_size=2)
    for i, single in enumerate((one, other)):
        alone = graph.rival_sample(steered, chain, single, negative, batch_size=2)
        assert torch.allclose(images[i], alone[i], atol=1e-4)
        assert not torch.allclose(images[1 - i], alone[1 - i], atol=1e-2)
