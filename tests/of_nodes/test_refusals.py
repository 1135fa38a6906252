"""Every refusal of the pack: said when a prompt is queued, unless only a run can know."""

from __future__ import annotations

import ast
import traceback
from pathlib import Path

import pytest
import queueing
from queueing import LINK

REPO = Path(__file__).resolve().parents[2]

# Where refusals are raised that widgets, and what is connected, decide: a case below shows each.
QUEUED = {
    "nodes/choose.py rankable",
    "nodes/guidance.py something_to_guide",
    "nodes/guidance.py words_can_be_found",
    "nodes/guidance.py photo_is_there",
    "nodes/steering/handover.py solver_sees",
    "nodes/pull.py there_is_a_photo",
    "nodes/solver.py guidance_has_two_sides",
    "nodes/reconstruct.py picture_is_decoded",
    "nodes/sample.py eta_has_its_sampler",
    "rival_core/choosing/choice.py parse",
    "rival_core/choosing/choice.py term",
    "rival_core/inversion/schemes.py check_coupling",
    "rival_core/sampling/partial_noise.py check_eta",
    "rival_core/values.py choice",
    "rival_core/values.py number",
}

# All others, by file or by file and function, and what they know that a queue does not.
RUN = {
    "nodes/steering/run.py": "how another sampler calls the model",
    "nodes/checks.py": "what latents, prompts, masks and models hold",
    "nodes/foreign.py": "what a file holds",
    "nodes/choose.py": "what links bring",
    "nodes/edit.py check": "what the model is",
    "nodes/edit.py editable": "what the mask holds",
    "nodes/guidance.py check": "what the mask holds",
    "nodes/guidance.py find_words": "the text encoder's tokens",
    "nodes/guidance.py words_are_apart": "the model's attention",
    "nodes/host/apart.py explained": "how a model call fails",
    "nodes/host/files.py": "what is in a folder; names are refused when queued, see test_files",
    "nodes/host/models.py": "the model's family and sampling",
    "nodes/host/previews.py": "the VAE's channels",
    "nodes/steering/calls.py": "how another node cuts the latent",
    "nodes/steering/reader.py roles_in": "how another node cuts the latent",
    "nodes/host/kernels.py explained_kernel": "how another node's attention fails",
    "nodes/host/calls.py": "what another node does to the model's blocks",
    "nodes/noise.py execute": "the chain's noise levels",
    "nodes/pull.py photo": "whether two links bring something",
    "nodes/sample.py sampler": "the chain's solver and the latent's mask",
    "nodes/solver.py uniform": "the model's attention",
    "nodes/reconstruct.py photo": "the picture's size",
    "nodes/schema.py named": "puts a node's name before what others refuse",
    "nodes/start.py": "the latent's size and content",
    "nodes/values.py check_links": "what links bring",
    "rival_core/steering/step.py": "the model's layers",
    "rival_core/chain/file.py": "what a file holds",
    "rival_core/chain/conditioning.py": "what a file holds",
    "rival_core/diffusers/engine.py": "the other engine, which has no queue",
    "rival_core/diffusers/flow.py": "the other engine, which has no queue",
    "rival_core/diffusers/model.py": "the other engine, which has no queue",
    "rival_core/steering/exemplar.py choose_layers": "the model's layers",
    "rival_core/chain/features.py choose_place": "the memory there is",
    "rival_core/editing/pull.py": "the latent's size",
    "rival_core/sampling/guidance.py": "the latent's size and the model's layers",
    "rival_core/choosing/choice.py picks": "how many images there are",
    "rival_core/choosing/scores.py": "what photo and mask hold",
    "rival_core/inversion/walks.py check_finite": "what the model predicts",
    "rival_core/inversion/schemes.py check_family": "the model's sampling",
    "rival_core/inversion/fixed_point.py __post_init__": "below the widget's range",
    "rival_core/steering/masks.py": "the latent's size and the model's layers",
    "rival_core/sampling/noise.py inverted": "the latent's size",
    "rival_core/inversion/schedule.py check_sigmas": "the noise levels of a link",
    "rival_core/inversion/schedule.py rival_timesteps": "the model, which may walk its own",
    "rival_core/chain/tensors.py": "what a file holds",
    "rival_core/values.py whole_number": "links; of a widget the host refuses it when queued",
    "rival_core/values.py flag": "links; of a widget the host makes it one",
    "rival_core/values.py text": "links; of a widget the host makes it one",
}

CASES = [
    ("RivalInvert", {"cfg": 3.0}, "cfg is 3.0 and no negative"),
    ("RivalInvert", {"features": "cached"}, "the solver ddim never sees"),
    ("RivalInvert", {"tolerance": float("nan")}, "tolerance is nan"),
    ("RivalInvert", {"solver": "edict", "coupling": 0.3}, "coupling is 0.3: give edict more than"),
    ("RivalInvert", {"solver": "edict", "features": "cached"}, "the solver edict never sees"),
    ("RivalInvert", {"caption_attention": "none"}, "caption_attention is 'none': choose one of"),
    ("RivalInvert", {"solver": "DDIM"}, "solver is 'DDIM': choose one of"),
    ("RivalInvert", {"schedule": "karrass"}, "schedule is 'karrass'"),
    ("RivalPatchModel", {"replace_end": 1.5}, "replace_end is 1.5: give 0 to 1"),
    ("RivalPatchModel", {"strength": float("nan")}, "strength is nan"),
    ("RivalPatchModel", {"layers": "deep"}, "layers is 'deep': choose one of all, decoder"),
    ("RivalPatchModel", {"exemplar_keys": "half"}, "exemplar_keys is 'half'"),
    ("RivalKSampler", {"eta": 0.5, "sampler_name": "dpmpp_2m"}, "choose euler, or set eta to 0"),
    ("RivalKSampler", {"eta": 0.5, "sampler_name": "chain"}, "choose euler, or set eta to 0"),
    ("RivalKSampler", {"eta": 0.5, "eta_end": 0.0}, "set eta_end above eta_start"),
    ("RivalKSampler", {"denoise": 0.0}, "denoise is 0.0: give 0.01 to 1"),
    ("RivalKSampler", {"cfg": float("inf")}, "cfg is inf"),
    ("RivalKSampler", {"sampler_name": "euler_xyz"}, "sampler_name is 'euler_xyz'"),
    ("RivalNoise", {"start": "Shuffle"}, "start is 'Shuffle': choose one of shuffle"),
    ("RivalBlendedGuidance", {}, "neither a mask nor a word"),
    ("RivalBlendedGuidance", {"words": "a dog"}, "need the chain and the clip"),
    ("RivalBlendedGuidance", {"words": "a", "chain": LINK}, "need the chain and the clip"),
    ("RivalBlendedGuidance", {"mask": LINK, "keep_photo": True}, "keep_photo needs the photo"),
    ("RivalBlendedGuidance", {"mask": LINK, "resolution": "16"}, "resolution is '16'"),
    ("RivalReconstruct", {"image": LINK}, "without its VAE"),
    ("RivalPull", {}, "there is no photo: connect a latent"),
    ("RivalPull", {"latent": LINK, "strength": 1.1}, "strength is 1.1: give 0 to 1"),
    ("RivalPull", {"latent": LINK, "fade": "sine"}, "fade is 'sine': choose one of none"),
    ("RivalEdit", {"change": 0.0}, "change is 0.0: give 0.01 to 1"),
    ("RivalEdit", {"path": "curved"}, "path is 'curved': choose one of smooth, direct"),
    ("RivalChoose", {"chosen": ""}, "chosen is empty"),
    ("RivalChoose", {"chosen": "the left one"}, "chosen is 'the left one': give numbers"),
    ("RivalChoose", {"chosen": "0"}, "numbered from 1"),
    ("RivalChoose", {"rank_by": "colour"}, "rank_by is 'colour': choose one of palette, texture"),
    ("RivalChoose", {"rank_by": "outside mask"}, "photo is not connected"),
    ("RivalChoose", {"rank_by": "outside mask", "photo": LINK}, "mask is not connected"),
]


def raised() -> set[str]:
    """`file function` of every RivalError that the source makes."""
    found = set()
    for path in sorted([*REPO.glob("nodes/**/*.py"), *REPO.glob("rival_core/**/*.py")]):
        file = path.relative_to(REPO).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id == "RivalError":
                around = [f for f in functions if f.lineno <= call.lineno <= f.end_lineno]
                found.add(f"{file} {max(around, key=lambda f: f.lineno).name}")
    return found


def test_every_refusal_is_in_the_table():
    """A new one that widgets decide goes into a rule of the node (`checked`), QUEUED and CASES."""
    sites, table = raised(), QUEUED | RUN.keys()
    known = {site for site in sites if site in table or site.split()[0] in table}
    assert sites - known == set()
    assert table - known - {site.split()[0] for site in known} == set(), "refused no more"


def site_of(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).relative_to(REPO).as_posix()} {frame.name}"


@pytest.mark.host
def test_what_widgets_decide_is_refused_when_queued_and_alike_when_run(monkeypatch):
    import comfyui_rival.nodes as pack

    sites = set()
    for name, inputs, words in CASES:
        node = getattr(pack, name)
        unconnected = {i.id: None for i in node.define_schema().inputs}
        with pytest.raises(ValueError) as refusal:
            node.execute(**{**unconnected, **queueing.widgets(node), **inputs})
        sentence = str(refusal.value)
        assert words in sentence and sentence.startswith(node.define_schema().display_name)
        details = [e["details"] for e in queueing.errors(monkeypatch, node, **inputs)]
        assert any(said.endswith(f" - {sentence}") for said in details), (sentence, details)
        sites.add(site_of(refusal.value.__cause__))
    assert sites == QUEUED
