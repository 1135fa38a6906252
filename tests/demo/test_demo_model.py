"""The demo model is one model: in ComfyUI and in diffusers, assembled or in its parts.

Its weights belong to the repository: where they are missing, these tests fail.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import graph
import pytest
import torch
from graph import relative

pytest.importorskip("diffusers")
DEMO = Path(__file__).resolve().parents[2] / "demo"
sys.path += [str(DEMO), str(DEMO / "model")]

import assemble
import diffusers_engine
import exemplars
import flow_data
import flow_file
import progress
import second_engine
import vocabulary
from comfyui_rival.rival_core.diffusers import engine
from comfyui_rival.rival_core.steering.exemplar import Exemplar
from scenes import all_attributes, caption, make_scene
from split import is_held_out

TOLERANCE = 1e-3
STEPS = 6  # of the paper's 50; see test_two_hosts_agree
SCENE = exemplars.scene(exemplars.SCENES[0], 1, None)


@pytest.fixture(scope="module")
def without_host():
    return diffusers_engine.DemoModel("unet")


@pytest.fixture(scope="module")
def in_host(host):
    """(MODEL, CLIP, VAE), as core's checkpoint loader gives them."""
    import comfy.sd

    return comfy.sd.load_checkpoint_guess_config(str(assemble.checkpoint()))[:3]


def conditioning(clip, text: str):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def pixels(exemplar: exemplars.Exemplar) -> torch.Tensor:
    """The IMAGE that LoadImage makes of it."""
    data = torch.frombuffer(bytearray(exemplar.picture.tobytes()), dtype=torch.uint8)
    return data.view(1, exemplar.picture.height, exemplar.picture.width, 3) / 255


@pytest.mark.any_host
@torch.inference_mode()
def test_two_hosts_agree(in_host, without_host):
    """From picture and captions to latents and pixels.

    Six steps show what fifty do: there the chain's error is 1.0e-5, here 5e-6.
    """
    model, clip, vae = in_host
    latent = {"samples": vae.encode(pixels(SCENE))}
    empty, text = conditioning(clip, ""), conditioning(clip, SCENE.prompt)
    theirs, _ = graph.invert(model, latent, empty, steps=STEPS)
    patched = graph.patch(model, theirs)
    wanted = graph.rival_sample(patched, theirs, text, empty, seed=3)

    ours, prompts = without_host, without_host.prompts(["", SCENE.prompt])
    chain = engine.invert(ours.network, ours.encode(SCENE.picture), prompts[0], STEPS)
    got = engine.sample(ours.network, chain, [Exemplar(chain)], *prompts[::-1], seed=3)
    scale = model.model.latent_format.scale_factor
    errors = relative(chain.latents, theirs.latents), relative(got, scale * wanted)
    print("relative error of the chain {:.1e}, of the variation {:.1e}".format(*errors))
    assert max(errors) < TOLERANCE
    seen = ours.autoencoder.decode(got).movedim(1, -1)
    assert (seen.clamp(0, 1) - vae.decode(wanted)).abs().max() < 0.02


@pytest.mark.any_host
def test_the_seeded_text_encoder_is_the_one_of_training():
    """Weight for weight what the host's own classes are filled with, in half precision."""
    import text_encoders

    ours = second_engine.text_encoder().weights()
    theirs = text_encoders.sd15(0)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.host
def test_texts_are_encoded_as_in_the_host(in_host):
    """By the assembled checkpoint, and by CLIPLoader from a file with nothing else in it.

    The flow model's by CLIPLoader with type sd3, which widens them for Wan with zeros.
    """
    import comfy.sd

    def load(kind: comfy.sd.CLIPType):
        return comfy.sd.load_clip([str(assemble.text_encoder())], clip_type=kind)

    alone, wide = load(comfy.sd.CLIPType.STABLE_DIFFUSION), load(comfy.sd.CLIPType.SD3)
    encoder = second_engine.text_encoder()
    for text in ("", SCENE.prompt, "Three RED circles"):
        for clip in (in_host[1], alone):
            assert relative(encoder([text]), conditioning(clip, text)[0][0]) < 1e-5
        theirs = conditioning(wide, text)[0][0]
        ours = flow_data.embed(encoder, [text])
        assert relative(ours, theirs[..., : ours.shape[-1]]) < 1e-5
        assert theirs.shape == (1, 77, flow_file.HOST_TEXT)
        assert not theirs[..., ours.shape[-1] :].any()


@pytest.mark.host
def test_the_vocabulary_is_the_hosts():
    from comfy.sd1_clip import SDTokenizer

    tokenizer, ours = SDTokenizer(), vocabulary.Vocabulary()
    made = vocabulary.table(tokenizer, vocabulary.words_of_captions())
    assert made == {"begin": ours.begin, "end": ours.end, "words": ours.words}
    for text in ["", "A Red  star", "red " * 90, *map(caption, all_attributes()[::50])]:
        batch = tokenizer.tokenize_with_weights(text)
        assert ours.tokens(text) == [token for token, _ in batch[0]]


def test_a_caption_has_only_known_words():
    ours = vocabulary.Vocabulary()
    assert not any(ours.unknown(caption(a)) for a in all_attributes())
    assert ours.unknown("three red Foxes on a moor") == ["Foxes", "moor"]


def test_the_demos_scenes_were_never_trained_on_and_differ():
    shown = [make_scene(seed).attributes for seed in exemplars.SCENES]
    assert all(map(is_held_out, shown))
    for part in ("color", "kind", "background", "texture"):
        assert len({getattr(attributes, part) for attributes in shown}) == len(shown), part


@pytest.mark.parametrize(
    ("size", "model", "fitted"),
    [((128, 128), "unet", (128, 128)), ((640, 480), "unet", (144, 112)),
     ((9, 9000), "unet", (8, 4048)), ((9, 9000), "flow", (16, 4048))],
)
def test_pictures_are_fitted_to_the_demo_models(size, model, fitted):
    from PIL import Image

    pixels = exemplars.PIXELS[model]
    exemplar = exemplars.fitted("a name", Image.new("RGB", size), "", pixels)
    assert exemplar.picture.size == fitted
    assert exemplar.megapixels == fitted[0] * fitted[1] / 1024**2


def test_a_bar_is_as_full_as_its_stages_whatever_they_count():
    """The nodes count model calls, up to ten a step; the second engine counts steps."""
    stream = io.StringIO()
    stream.isatty = lambda: True
    bar = progress.Progress("a", {"invert": "Inverting", "sample": "Sampling"}, 20, stream)
    for report, said in {("invert", 0, 0): "  0%  Inverting 0/20",
                         ("invert", 100, 200): " 25%  Inverting 10/20",
                         ("invert", 200, 200): " 50%  Inverting 20/20",
                         ("sample", 15, 20): " 88%  Sampling 15/20"}.items():
        bar(*report)
        assert stream.getvalue().split("\r")[-1].rstrip().endswith(said)


def test_missing_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "WEIGHTS", tmp_path / "weights")
    for parts in (assemble.parts, assemble.flow_parts):
        with pytest.raises(assemble.MissingWeights, match="weights are not in"):
            parts()
