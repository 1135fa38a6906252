"""What one sampling step costs: plain KSampler, this pack, and the official algorithm.

    python benchmarks/step_cost.py --checkpoint model.safetensors --size 512 --variations 1 4

All run the same network in the same process, in turn, and the medians are compared. RIVAL runs
twice: with the photo's features computed live, and with those that an earlier run left. The
official script runs four rows a variation (conditional and unconditional, exemplar and generated)
and all of them read the longer keys; a step of it is N such calls. Without --checkpoint the
network is SD1.5's, full size, with random weights.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "harness"))

import environment
import hosts
import in_process

REPLACE_STEPS, CONCAT_STEPS = 19, 31  # of the paper's 50
COMPARED = ("live", "cached", "official")
GATES = {
    "replace": {"replace_end": 1.0, "normalize_end": 0.4},
    "concat": {"replace_end": 0.0, "normalize_end": 0.4},
}


def main() -> int:
    options = parse()
    found = [hosts.read_host(Path(options.comfyui))] if options.comfyui else hosts.find_hosts()
    if not found or found[0] is None:
        print("step_cost: no ComfyUI was found: give its folder with --comfyui", file=sys.stderr)
        return 1
    capable = environment.capable_interpreter((), found[:1])
    python = capable or environment.ensure((), found[:1])
    if not capable and Path(sys.prefix).resolve() != environment.VENV.resolve():
        return os.spawnv(os.P_WAIT, python, [str(python), __file__, *sys.argv[1:]])
    in_process.prepare_host(found[0].path, cpu=not sees_gpu())
    in_process.register_pack()
    model = load(options.checkpoint)
    print(f"{found[0]}, {name_of(model)}, {options.size} px, {options.rounds} rounds of medians")
    print(f"{'N':>3} {'phase':>8} {'plain s':>9}", end="")
    print("".join(f" {kind + ' s':>11} {kind + '/plain':>15}" for kind in COMPARED))
    seconds = measure(model, options.variations, options.size // 8, options.rounds)
    for n in options.variations:
        report(n, seconds)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", help="a checkpoint file; default: SD1.5, random weights")
    parser.add_argument("--comfyui", help="the ComfyUI folder; default: as the tests find it")
    parser.add_argument("--size", type=int, default=256, help="pixels a side (256)")
    parser.add_argument("--variations", type=int, nargs="+", default=[1, 4], help="batch sizes")
    parser.add_argument("--rounds", type=int, default=5, help="times each is measured (5)")
    return parser.parse_args()


def sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def load(checkpoint: str | None):
    """The MODEL of a checkpoint file, or SD1.5's network with seeded random weights."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.sd
    import torch

    if checkpoint:
        return comfy.sd.load_checkpoint_guess_config(checkpoint, output_clip=False)[0]
    from comfy.supported_models import SD15

    config = SD15(SD15_UNET)
    config.set_inference_dtype(comfy.model_management.unet_dtype(), None)
    torch.manual_seed(0)
    device = comfy.model_management.get_torch_device()
    base = config.get_model({}, "", device=device)
    for weight in base.diffusion_model.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(base, device, offload)


SD15_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": False,
    "context_dim": 768,
    "num_heads": 8,
    "num_head_channels": -1,
    "adm_in_channels": None,
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "legacy": False,
}


def name_of(model) -> str:
    return type(model.model.model_config).__name__


def prompt_for(model):
    """Text embeddings of the right width; what they say does not matter for time."""
    import torch

    unet = model.model.model_config.unet_config
    width = unet["context_dim"]
    return [[torch.randn(1, 77, width), {"pooled_output": torch.randn(1, 1280)}]]


def measure(model, variations: list[int], side: int, rounds: int) -> dict[tuple, float]:
    """Median seconds of each (kind of step, batch size), all kinds in turn, `rounds` times."""
    import torch
    from comfyui_rival.nodes.alignment import align
    from comfyui_rival.rival_core.exemplar import Exemplar
    from comfyui_rival.rival_core.gates import Gates

    chain, prompt = random_chain(model, side), prompt_for(model)
    kinds = {("plain", n): model for n in variations}
    for phase, gates in GATES.items():
        for features in ("live", "cached"):
            patched = align(model, Exemplar(chain, Gates(**gates), features=features))
            kinds |= {(features, phase, n): patched for n in variations}
        kinds["official", phase] = align_officially(model, phase)
    times: dict[tuple, list[float]] = {kind: [] for kind in kinds}
    with torch.inference_mode():
        step_times(patched, 1, chain, prompt)  # fills the cache
        for _ in range(rounds):
            for kind, patched in kinds.items():
                batch = 2 if kind[0] == "official" else kind[-1]  # guidance makes it 2 x 2 rows
                times[kind] += step_times(patched, batch, chain, prompt)
    return {kind: statistics.median(found) for kind, found in times.items()}


def random_chain(model, side: int):
    """A chain of noise: time does not depend on what it shows."""
    import torch
    from comfyui_rival.nodes import host
    from comfyui_rival.rival_core.chain import Chain
    from comfyui_rival.rival_core.schedule import rival_sigmas

    sigmas = rival_sigmas(host.timesteps_of(model), 50).flip(0)
    latents = torch.randn(51, 4, side, side) * (1 + sigmas**2).sqrt()[:, None, None, None]
    card = host.model_card(model)
    return Chain(sigmas, latents, host.scaling_of(model), card, prompt_for(model))


def align_officially(model, phase: str):
    """A MODEL whose every row reads keys as in the official batch of four rows."""
    import torch

    def read(n, context, value, extra_options):
        exemplar = context[[0, 0, 2, 2]]
        keys = exemplar if phase == "replace" else torch.cat([exemplar, context], dim=1)
        return n, keys, keys

    model = model.clone()
    model.set_model_attn1_patch(read)
    return model


def step_times(model, batch: int, chain, prompt) -> list[float]:
    """Seconds of 2 Euler steps at cfg 5, after a first one that is not counted."""
    import comfy.samplers
    import torch

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(prompt, prompt)
    guider.set_cfg(5.0)
    noise = torch.randn(batch, *chain.latents.shape[1:])
    marks = []

    def mark(*_):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    euler = comfy.samplers.sampler_object("euler")
    sigmas = chain.falling_sigmas()[20:24]  # past the normalised steps
    guider.sample(noise, torch.zeros_like(noise), euler, sigmas, callback=mark, disable_pbar=True)
    return [after - before for before, after in zip(marks, marks[1:])]


def report(n: int, seconds: dict[tuple, float]) -> None:
    plain = seconds["plain", n]
    rows = {
        phase: [
            seconds["live", phase, n],
            seconds["cached", phase, n],
            n * seconds["official", phase],
        ]
        for phase in GATES
    }
    shares = [REPLACE_STEPS / 50, CONCAT_STEPS / 50]
    columns = zip(*rows.values())
    rows["schedule"] = [sum(s * t for s, t in zip(shares, column)) for column in columns]
    for phase, row in rows.items():
        print(f"{n:>3} {phase:>8} {plain:>9.3f}", end="")
        print("".join(f" {t:>11.3f} {t / plain:>15.2f}" for t in row), flush=True)


if __name__ == "__main__":
    sys.exit(main())
