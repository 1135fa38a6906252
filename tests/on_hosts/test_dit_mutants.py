"""Each trap of DiTs as a mistake in RIVAL's own code: some identity must notice it.

Beside the photo itself most mistakes show: what is read is no longer what is there. A mistake that
is made for the photo as for the rows does not; it shows against the oracle of one batch, or in what
is kept of the photo.
"""

from __future__ import annotations

import contextlib

import dit_rows
import dits
import pytest
import tiny_dits
import torch
from comfyui_rival.rival_core.errors import RivalError
from composing import run_node
from dit_rows import Row
from dits import CONCAT, SIGMA
from graph import relative

pytestmark = pytest.mark.any_host
NOTICED, SAME = 1e-3, {"positions": "same"}


# --- identities: each gives an error that should be next to none ---------------------------------


def of_the_photo_itself(family, wrap=lambda conditioning: conditioning) -> float:
    x, prompts = dits.noise(family), [wrap(dits.prompt(family, seed)) for seed in (1, 2)]
    plain = dits.velocity(dits.model_of(family), x, *prompts, 3.0)
    model = dits.patched(family, (dits.photo(family, x, *prompts), {**CONCAT, **SAME}))
    return relative(dits.velocity(model, x, *prompts, 3.0), plain)


def of_closed_text(family) -> float:
    """A part of the text is no key for anybody."""
    def closed(conditioning):
        (tokens, options), = conditioning
        mask = torch.zeros(1, 40, 40)
        mask[..., 9:24] = -torch.inf
        return [[tokens, {**options, "attention_mask": mask, "attention_mask_img_shape": (4, 4)}]]

    return of_the_photo_itself(family, closed)


def of_one_batch(family, positions="same") -> float:
    """Another photo under another prompt, against the oracle."""
    x, name = dits.noise(family), dits.name_of(family)
    chain = dits.photo(family, dits.noise(family, 5), dits.prompt(family, 1))
    model = dits.patched(family, (chain, {**CONCAT, "positions": positions}))
    rows = [Row(chain.latents[1:], chain.positive),
            Row(x, dits.prompt(family, 3), reads=[0], shares=[1.0],
                columns=4.0 if positions == "beside" else 0.0)]
    *_, expected = dit_rows.denoise(dits.model_of(family), name, rows, SIGMA)
    return relative(dits.velocity(model, x, dits.prompt(family, 3)), (x - expected) / SIGMA)


def beside(family) -> float:
    return of_one_batch(family, "beside")


def first_layer(family, photo, positive) -> torch.Tensor:
    """The prediction where the first layer alone reads the photo, and nothing else."""
    from comfyui_rival.nodes.steering.run import align
    from comfyui_rival.rival_core.steering.exemplar import Exemplar
    from comfyui_rival.rival_core.steering.gates import Gates

    block, depth, _ = photo.model.layers[0]
    exemplar = Exemplar(photo, Gates(replace_end=1.0, normalize_end=0.0),
                        layers=frozenset([(block, depth)]), positions="same")
    return dits.velocity(align(dits.model_of(family), exemplar), dits.noise(family), positive)


def of_texts_of_two_lengths(family) -> float:
    """At its first layer an image knows nothing of its text but how long it is."""
    x, short, long = dits.noise(family), *(dits.prompt(family, 1, n) for n in (20, 70))
    plain = dits.velocity(dits.model_of(family), x, short)
    return relative(first_layer(family, dits.photo(family, x, long), short), plain)


def of_references(family) -> float:
    """At its first layer an image knows nothing of references."""
    x, prompt = dits.noise(family), dits.prompt(family, 1)
    latent = tiny_dits.latent(dits.model_of(family), 21)["samples"]
    (tokens, options), = prompt
    with_one = [[tokens, {**options, "reference_latents": [latent]}]]
    plain = dits.velocity(dits.model_of(family), x, prompt)
    return relative(first_layer(family, dits.photo(family, x, with_one), prompt), plain)


def of_skipped_layers(family) -> float:
    """The photo's first block skipped by guidance, in which the rest reads as before."""
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT
    from comfyui_rival.nodes.steering.reader import Reader

    x, prompts = dits.noise(family), [dits.prompt(family, seed) for seed in (1, 2)]
    chain, read = dits.photo(family, dits.noise(family, 5), *prompts), []
    model = dits.patched(family, (chain, {**CONCAT, **SAME}))
    model = run_node(SkipLayerGuidanceDiT, model, double_layers="0", single_layers="", scale=3.0,
                     start_percent=0.0, end_percent=1.0, rescaling_scale=0.0)[0]
    original = Reader.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reader, "read", lambda self, layer, *rest: (
            read.append(layer), original(self, layer, *rest))[1])
        dits.velocity(model, x, *prompts, 3.0)
    layers = [(block, depth) for block, depth, _ in chain.model.layers]
    return float(read != [*layers, *layers[1:]])


# --- mistakes: each puts something of ours out of order ------------------------------------------


def keys_alone(patch, port):
    from comfyui_rival.rival_core.steering import joint

    patch.setattr(joint, "arrangement", lambda length, image, photos, replace: (
        [] if replace else [slice(0, length)]))


def counted_from_the_end(patch, port):
    change(patch, port, starts=lambda call, length: [length - call.tokens])


def swapped_rows(patch, port):
    from comfyui_rival.nodes.steering.reader import Reader

    original = Reader.roles_in
    patch.setattr(Reader, "roles_in", lambda self, options: original(self, options)[::-1])


def open_masks(patch, port):
    """Of the columns that are added none is closed, as if they were a photo's."""
    from comfyui_rival.nodes.host import joint

    def opened(mask, images, lent, sets, replace):
        more = sets * (mask.shape[-1] - (images[0].stop - images[0].start)) + lent
        return torch.cat([mask, mask.new_zeros(*mask.shape[:-1], more)], dim=-1)

    patch.setattr(joint, "arranged_mask", opened)


def every_call(patch, port):
    """The text's own attention, and attention to the text, taken for the image's."""
    original = port.blocks
    change(patch, port, blocks=lambda network: [(name, (True,) * len(calls))
                                                for name, calls in original(network)],
           starts=lambda call, length: [max(0, length - call.tokens)])


def other_calls(patch, port):
    original = port.blocks
    change(patch, port, blocks=lambda network: [(name, calls[::-1])
                                                for name, calls in original(network)])


def places_forgotten(patch, port):
    from comfyui_rival.nodes.steering.recorder import Recorder

    original = Recorder.keep
    patch.setattr(Recorder, "keep", lambda self, layer, rows, k, v, place=0.0: original(
        self, layer, rows, k, v, 32.0))


def keys_not_turned(patch, port):
    from comfyui_rival.nodes.host import positions

    patch.setattr(positions, "rotated", lambda keys, *_: keys)


def blocks_not_counted(patch, port):
    from comfyui_rival.nodes.host.calls import Call

    patch.setattr(Call, "counted", lambda self, block, replacement: replacement)


def change(patch, port, **values):
    for name, value in values.items():
        patch.setitem(vars(port), name, value)


CASES = [
    *[(keys_alone, of_the_photo_itself, family) for family in ("flux", "lumina", "qwen", "sd3")],
    *[(counted_from_the_end, of_references, family) for family in ("flux", "qwen")],
    *[(swapped_rows, of_the_photo_itself, family) for family in dits.FEW],
    (open_masks, of_closed_text, "flux"),
    *[(every_call, of_one_batch, family) for family in ("lumina", "wan")],
    (other_calls, of_one_batch, "wan"),
    (places_forgotten, of_texts_of_two_lengths, "lumina"),
    *[(keys_not_turned, beside, family) for family in ("flux", "lumina", "qwen", "wan")],
    (blocks_not_counted, of_skipped_layers, "sd3"),
]


@pytest.mark.parametrize("mistake, identity, family", CASES, ids=[
    f"{mistake.__name__}-{family}" for mistake, _, family in CASES])
def test_a_mistake_is_noticed(monkeypatch, mistake, identity, family):
    from comfyui_rival.nodes import host

    assert identity(family) < 1e-5
    mistake(monkeypatch, host.port_of(dits.model_of(family)))
    with contextlib.suppress(RivalError, RuntimeError):  # some cannot even run
        assert identity(family) > NOTICED
