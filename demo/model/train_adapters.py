"""Trains two small adapters of the demo model, which itself stays as it is.

    python demo/model/train_adapters.py control --minutes 30 --slowing
    python demo/model/train_adapters.py concept --minutes 15 --slowing --batch 4 --rate 2e-3

Everything it needs to go on lies in `.cache/training`; every run ends by writing the adapter to
`weights/`. On the CPU. Needs the host's requirements, so run it with their Python.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import concept
import control
import export
import torch
from assemble import WEIGHTS
from clip import TextEncoder
from diffusion import noise_loss
from latents import Captions
from safetensors.torch import save_file
from scenes import SIZE
from state import Training
from train import FOLDER, Deadline, run
from unet import frozen_unet, use_host

CPU = torch.device("cpu")


def control_training(folder: Path, unet, rate: float, **changes) -> Training:
    torch.manual_seed(0)
    controlnet = control.make_controlnet(unet, **changes)
    return Training("controlnet", controlnet, folder, rate, warmup=50, device=CPU)


def train_control(training: Training, unet, batches: control.OutlineBatches, batch: int,
                  wanted: int, deadline: Deadline) -> None:
    """Up to this many scenes in all, or up to the deadline."""

    def loss() -> torch.Tensor:
        drawn, hints = batches.hinted(training.seed(batch), batch)
        return noise_loss(control.Controlled(unet, training.model, hints), *drawn)

    run(training, loss, batch, wanted, deadline)


def concept_training(folder: Path, unet, rate: float) -> Training:
    torch.manual_seed(0)
    return Training("concept", concept.add_lora(unet), folder, rate, warmup=20, device=CPU)


def train_concept(training: Training, batches: concept.ConceptBatches, batch: int, wanted: int,
                  deadline: Deadline) -> None:
    """Up to this many pictures in all, or up to the deadline."""

    def loss() -> torch.Tensor:
        return noise_loss(training.model, *batches.at(training.seed(batch), batch))

    run(training, loss, batch, wanted, deadline)


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    use_host()
    trained = export.read(WEIGHTS)
    unet = frozen_unet(trained).to(memory_format=torch.channels_last)
    autoencoder = export.load_autoencoder(trained)
    captions = Captions(options.captions, FOLDER, CPU)
    deadline = Deadline(options.minutes, options.slowing)
    deadline.catch_signals()
    limits = options.batch, options.samples, deadline
    if options.what == "control":
        training = control_training(options.folder, unet, options.rate)
        batches = control.OutlineBatches(captions, autoencoder, CPU, options.size)
        train_control(training, unet, batches, *limits)
        save_file(control.tensors(training.model), options.out / "control.safetensors")
    else:
        training = concept_training(options.folder, unet, options.rate)
        ordinary = concept.NeighbourBatches(captions, autoencoder, CPU, options.size)
        train_concept(training, concept.ConceptBatches(ordinary, TextEncoder()), *limits)
        save_file(concept.tensors(training.model), options.out / "concept.safetensors")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["control", "concept"])
    parser.add_argument("--minutes", type=float, required=True, help="for this chunk, about")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--samples", type=int, default=10**9, help="in all")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--slowing", action="store_true",
                        help="let the rate fall to zero over this chunk: do so in the last one")
    parser.add_argument("--size", type=int, default=SIZE, help="of the pictures, in pixels")
    parser.add_argument("--captions", type=int, default=1200)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
