"""The miniatures of the flow transformers are what tests of them rely on."""

import pytest
import tiny_dits

pytestmark = pytest.mark.host


@pytest.fixture(params=tiny_dits.FAMILIES)
def family(request):
    if request.param not in tiny_dits.available():
        pytest.skip("this ComfyUI has no such model")
    return request.param


def attending(model, override):
    """The MODEL with this function in place of its attention."""
    changed = model.clone()
    options = changed.model_options["transformer_options"]
    options["optimized_attention_override"] = override
    return changed


def off(changed, plain) -> float:
    return float((changed - plain).norm() / plain.norm())


def test_seeded_and_of_unit_deviation(family):
    first, again, other = (tiny_dits.velocity(tiny_dits.build(family, seed), seed=3)
                           for seed in (0, 0, 1))
    assert (first - again).abs().max() == 0
    assert off(other, first) > 0.1
    assert first.isfinite().all() and 0.8 < first.std() < 1.2
    network = tiny_dits.build(family).model.diffusion_model
    assert sum(weight.numel() for weight in network.parameters()) < 4e6


def test_prompts_and_keys_matter(family):
    """So do a prompt, another image's keys, and the key of one token among them."""
    model, keys = tiny_dits.build(family), []
    prompt, other = tiny_dits.conditioning(model), tiny_dits.conditioning(model, seed=1)
    x = tiny_dits.noise(model, 1)
    plain = tiny_dits.velocity(model, x, prompt=prompt)
    assert off(tiny_dits.velocity(model, x, prompt=other), plain) > 0.05

    def record(attention, q, k, v, *args, **kwargs):
        keys.append(k.clone())
        return attention(q, k, v, *args, **kwargs)

    tiny_dits.velocity(attending(model, record), tiny_dits.noise(model, 2), prompt=prompt)
    for one, least in ((False, 0.05), (True, 0.01)):
        kept = iter(keys)

        def swap(attention, q, k, v, *args, kept=kept, one=one, **kwargs):
            tokens = 2 if kwargs.get("skip_reshape") else 1
            return attention(q, exchanged(k, next(kept), tokens, one), v, *args, **kwargs)

        changed = tiny_dits.velocity(attending(model, swap), x, prompt=prompt)
        assert off(changed, plain) > least, one


def exchanged(keys, others, tokens: int, one: bool):
    """Another call's keys: all, or of one token that differs (text is the same in the first)."""
    differing = (keys - others).abs().movedim(tokens, 0).flatten(1).amax(1).nonzero().flatten()
    if not one or not len(differing):
        return others
    token = differing[len(differing) // 2]
    return keys.index_copy(tokens, token[None], others.index_select(tokens, token[None]))


@pytest.mark.parametrize("size", [(8, 8), (12, 6)])
def test_samples_with_guidance_in_a_batch(family, size):
    import nodes

    model = tiny_dits.build(family)
    latent = tiny_dits.latent(model, seed=1, batch=2, size=size)
    prompts = tiny_dits.conditioning(model, 1, 7), tiny_dits.conditioning(model, 2, 12)
    results = [nodes.KSampler().sample(model, 5, 2, 3.0, "euler", "simple", *prompts, latent, 0.9)
               [0]["samples"] for _ in range(2)]
    assert results[0].shape == latent["samples"].shape
    assert results[0].isfinite().all() and (results[0] - results[1]).abs().max() == 0
    assert off(results[0][:1], results[0][1:]) > 0.1
