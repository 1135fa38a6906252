"""RIVAL on DiTs beside nodes around and inside model calls: caches, tiles, windows, kernels."""

from __future__ import annotations

import dits
import graph
import others
import pytest
import spies
import torch
from composing import run_node
from dits import CONCAT, FEW, MODES, half
from graph import relative

pytestmark = pytest.mark.host
SAME = {"positions": "same"}


@pytest.fixture(scope="module", params=FEW)
def family(request):
    dits.name_of(request.param)
    return request.param


# --- what goes around calls ----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["flux", "wan"])
@pytest.mark.parametrize("node", ["EasyCacheNode", "LazyCacheNode"])
def test_the_photos_calls_are_neither_skipped_nor_watched(family, node, monkeypatch):
    from comfy_extras import nodes_easycache

    chain, inputs = dits.chain_of(family, steps=8), {"cfg": 1.0}
    to_the_end = {"normalize_end": 1.0}
    plain = dits.sample(family, chain, to_the_end, **inputs)
    seen, often = [], 0.9 if node == "LazyCacheNode" else 5.0
    for threshold in (0.0, often):
        model = getattr(nodes_easycache, node).execute(
            dits.patched(family, (chain, to_the_end)), threshold, 0.1, 0.9, False).args[0]
        with spies.exemplar_calls(monkeypatch) as calls, spies.model_rows(model) as rows:
            samples = dits.sample(family, chain, model=model, **inputs)
        seen.append((samples, {sigma: out[0] for _, sigma, out in calls}, len(rows)))
    (never, every, most), (skipping, some, fewer) = seen
    assert relative(never, plain) < 1e-5
    # EasyCache skips inside of what is counted.
    assert (fewer == most) is (node == "EasyCacheNode") and not torch.equal(skipping, plain)
    assert some and all(torch.equal(some[sigma], every[sigma]) for sigma in some)


def right(x: torch.Tensor) -> torch.Tensor:
    return x[..., 8:]


def test_tiles_have_their_own_part_of_the_mask(family):
    """Each is sampled beside the whole photo; right of the mask they are plain bitwise."""
    if dits.noise(family).ndim == 5:
        pytest.skip("the stand-in cuts latents of four dimensions")
    x, chain = dits.noise(family, size=(8, 16)), dits.chain_of(family)
    prompts = dits.prompt(family, 3), dits.prompt(family, 4)
    predict = lambda model, x: dits.velocity(model, x, *prompts, 3.0)  # noqa: E731
    model = dits.patched(family, (chain, {**CONCAT, "mask": half()}))
    tiled, plain = predict(others.tiler(model), x), dits.model_of(family)
    alone = predict(dits.patched(family, (chain, CONCAT)), x[..., :8])
    assert relative(tiled[..., :8], alone) < 1e-5
    assert relative(right(tiled), predict(plain, right(x))) < 1e-5


def test_windows_have_their_own_part_of_the_mask(family):
    x, chain = dits.noise(family, size=(8, 16)), dits.chain_of(family)
    prompt, window = dits.prompt(family, 3), {"dim": x.ndim - 1, "length": 8, "overlap": 0,
                                           "causal_window_fix": False}
    model = others.windows(dits.patched(family, (chain, {**CONCAT, "mask": half()})), **window)
    found, plain = dits.velocity(model, x, prompt), dits.model_of(family)
    alone = dits.velocity(dits.patched(family, (chain, CONCAT)), x[..., :8], prompt)
    assert relative(found[..., :8], alone) < 1e-5
    assert relative(right(found), dits.velocity(plain, right(x), prompt)) < 1e-5


# --- what replaces blocks ------------------------------------------------------------------------

SKIPPED = {"flux": ("0", "1"), "sd3": ("0", ""), "wan": ("0", "")}


def guided_without(model, family):
    """SkipLayerGuidanceDiT: a third prediction, by a network of fewer blocks."""
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    double, single = SKIPPED[family]
    return run_node(SkipLayerGuidanceDiT, model, double_layers=double, single_layers=single,
                    scale=3.0, start_percent=0.0, end_percent=1.0, rescaling_scale=0.0)[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", SKIPPED)
def test_layers_that_stay_read_their_own(family, mode):
    """The photo is recorded once, whole, before the third prediction goes without a block."""
    x, prompts = dits.noise(family), (dits.prompt(family, 1), dits.prompt(family, 2))
    chain = dits.photo(family, x, *prompts)
    read = []
    from comfyui_rival.nodes.steering.reader import Reader

    original = Reader.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reader, "read", lambda self, layer, *rest: (
            read.append(layer), original(self, layer, *rest))[1])
        model = dits.patched(family, (chain, {**MODES[mode], **SAME}))
        dits.velocity(guided_without(model, family), x, *prompts, 3.0)
    layers = [(block, depth) for block, depth, _ in chain.model.layers]
    left = layers[1:3] if family == "flux" else layers[1:]
    assert read == [*layers, *left]


@pytest.mark.parametrize("family", SKIPPED)
def test_a_model_of_fewer_blocks_beside_its_own_photo(family):
    """Skipped for good, in the photo's calls as in the rows', the photo itself changes nothing."""
    double, single = SKIPPED[family]
    model = dits.model_of(family).clone()
    for kind, number in (("double_block", double), ("single_block", single)):
        if number:
            model.set_model_patch_replace(lambda args, _: args, "dit", kind, int(number))
    x, prompt = dits.noise(family), dits.prompt(family, 1)
    plain = dits.velocity(model, x, prompt)
    assert relative(plain, dits.velocity(dits.model_of(family), x, prompt)) > 1e-3
    for mode in MODES.values():
        steered = dits.patched(model, (dits.photo(family, x, prompt), {**mode, **SAME}))
        assert relative(dits.velocity(steered, x, prompt), plain) < 1e-5


# --- attention functions -------------------------------------------------------------------------


def with_override(model, override):
    model = model.clone()
    options = model.model_options["transformer_options"]
    model.model_options = {**model.model_options, "transformer_options": {
        **options, "optimized_attention_override": override}}
    return model


def test_an_attention_of_another_node_is_what_ours_calls(family):
    """The same result bitwise, and it sees the longer keys; whichever was put in first."""
    lengths = []

    def theirs(func, q, k, *args, **kwargs):
        lengths.append(k.shape[-2])
        return func(q, k, *args, **kwargs)

    x, prompt, chain = dits.noise(family), dits.prompt(family, 3), dits.chain_of(family)
    known = lambda func, *args, **kwargs: func(*args, **kwargs)  # noqa: E731
    alone = dits.velocity(with_override(dits.patched(family, (chain, CONCAT)), known), x, prompt)
    first = dits.patched(with_override(dits.model_of(family), theirs), (chain, CONCAT))
    after = with_override(dits.patched(family, (chain, CONCAT)), theirs)
    for model in (first, after):
        lengths.clear()
        assert torch.equal(dits.velocity(model, x, prompt), alone)
        assert max(lengths) > 2 * 16 - 1
    assert relative(alone, dits.velocity(dits.model_of(family), x, prompt)) > 1e-2


def put_above(model, override):
    """A clone in whose model calls the override takes the place of ours, which it is given."""
    from comfy.patcher_extension import WrappersMP

    def around(executor, x, t, c_concat, c_crossattn, control, options, **kwargs):
        ours = options["optimized_attention_override"]
        options = {**options, "optimized_attention_override":
                   lambda func, *a, **k: override(ours, func, *a, **k)}
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "theirs", around)
    return model


@pytest.mark.usefixtures("photos_apart")
def test_an_attention_above_ours_is_let_through(family):
    x, prompt, chain = dits.noise(family), dits.prompt(family, 3), dits.chain_of(family)
    steered = dits.patched(family, (chain, CONCAT))
    above = put_above(steered, lambda ours, func, *args, **kwargs: ours(func, *args, **kwargs))
    assert torch.equal(dits.velocity(above, x, prompt), dits.velocity(steered, x, prompt))


def test_an_attention_that_drops_ours_is_said_once(family, caplog):
    chain = dits.chain_of(family)
    drops = put_above(dits.patched(family, (chain, {})),
                      lambda ours, func, *args, **kwargs: func(*args, **kwargs))
    assert torch.equal(dits.sample(family, chain, model=drops), dits.sample(family, chain))
    assert caplog.text.count("the photo is not read there") == 1


def test_an_image_that_another_node_brings_stays_out_of_the_photos_calls(monkeypatch, caplog):
    def bring_image(args):
        return {**args, "img": args["img"].roll(1, dims=-1)}

    chain, model = dits.chain_of("flux"), dits.model_of("flux").clone()
    model.set_model_patch(bring_image, "post_input")
    seen = []
    for one in (model, dits.model_of("flux")):
        with spies.exemplar_calls(monkeypatch) as calls:
            seen.append(dits.sample("flux", chain, model=graph.patch(one, chain)))
        seen.append({sigma: out[0] for _, sigma, out in calls})
    brought, beside_it, plain, alone = seen
    assert relative(brought, plain) > 1e-2
    assert alone and all(relative(beside_it[sigma], alone[sigma]) < 1e-5 for sigma in alone)
    assert caplog.text.count("bring_image may remember") == 1


def test_calls_that_skip_every_block_are_said_too(caplog):
    """Some step caches change the network's own forward; core's, outside of it, need no word."""
    chain, model = dits.chain_of("flux"), dits.patched("flux", (dits.chain_of("flux"), {}))
    network = model.model.diffusion_model
    original = network.forward_orig
    network.forward_orig = lambda img, *args, **kwargs: network.final_layer(
        img.new_zeros(*img.shape[:2], 128), img.new_zeros(len(img), 128))
    x, sigma = dits.noise("flux"), float(chain.sigmas[2])
    try:
        dits.velocity(model, x, dits.prompt("flux", 3), sigma=sigma)
    finally:
        network.forward_orig = original
    assert caplog.text.count("the photo is not read there") == 1


# --- other modules -------------------------------------------------------------------------------


class Named(torch.nn.Module):
    """A wrapper as other packs have them."""

    def __init__(self, network):
        super().__init__()
        self.inner, self.dtype = network, network.dtype

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)

    def __getattr__(self, name):
        return super().__getattr__(name) if name == "inner" else getattr(self.inner, name)


def in_a_module(model):
    model = model.clone()
    model.add_object_patch("diffusion_model", Named(model.get_model_object("diffusion_model")))
    return model


def compiled(model):
    """torch.compile's module is there, and runs what is in it: compiling takes half a minute."""
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    return run_node(TorchCompileModel, model, backend="inductor")[0]


@pytest.mark.usefixtures("photos_apart")
@pytest.mark.parametrize("wrapped", [in_a_module, compiled])
@pytest.mark.parametrize("family", ["flux", "wan"])
def test_a_network_in_a_module_of_another_node(family, wrapped):
    chain, base = dits.chain_of(family), dits.model_of(family)
    expected = dits.sample(family, chain, {})
    with torch.compiler.set_stance("force_eager"):
        before = dits.sample(family, chain, {}, model=wrapped(base))
        after = dits.sample(family, chain, model=wrapped(dits.patched(family, (chain, {}))))
    assert torch.equal(before, expected) and torch.equal(after, expected)
    assert torch.equal(dits.sample(family, chain, {}), expected)


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_previews(family, monkeypatch):
    """Of every step, as the host draws them where they are on."""
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod, args

    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Latent2RGB)
    shown, original = [], latent_preview.LatentPreviewer.decode_latent_to_preview_image
    monkeypatch.setattr(latent_preview.LatentPreviewer, "decode_latent_to_preview_image",
                        lambda *given: shown.append(original(*given)) or shown[-1])
    dits.sample(family, dits.chain_of(family), {}, cfg=1.0)
    assert len(shown) == 4 and all(len(set(one[1].getdata())) > 1 for one in shown)


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_eta_draws_fresh_noise(family):
    """The same for a seed, another for another; a batch item is its single run."""
    chain = dits.chain_of(family)
    draw = lambda seed, **more: dits.sample(  # noqa: E731
        family, chain, {}, cfg=1.0, seed=seed, eta=0.5, start="inverted", **more)
    one = draw(1)
    assert torch.equal(draw(1), one) and torch.isfinite(one).all()
    assert relative(draw(2), one) > 1e-2
    assert relative(draw(1, batch_size=2)[:1], one) < 1e-4
    assert graph.relative(dits.sample(family, chain, {}, cfg=1.0, start="inverted"), one) > 1e-2

