"""Trains the flow model: first its autoencoder, then, on stored latents, the network itself.

    python demo/model/train_flow.py autoencoder --minutes 60 --slowing
    python demo/model/train_flow.py flow --minutes 60 --size 64
    python demo/model/train_flow.py flow --minutes 60 --slowing --batch 32

Everything it needs to go on lies in one folder; it may be cut anywhere, and every run ends by
writing there what would be shipped. Where that folder is empty it goes on from what is shipped,
with a fresh optimizer. Needs no ComfyUI; the autoencoder's photos are more with scikit-image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import flow_file
import together
import torch
from export import REPO
from muon import MuonBesideAdam
from safetensors.torch import save_file
from scenes import SIZE
from state import Training
from train import Deadline, run

FOLDER = REPO / ".cache" / "training-flow"
RATES = {"autoencoder": 1e-3, "flow": 1e-3}
BATCHES = {"autoencoder": 12, "flow": 64}


def autoencoder_training(folder: Path, device: torch.device, rate: float,
                         decoder_only: bool = False) -> Training:
    """From the shipped wide autoencoder, or where there is none from the narrow one's weights.

    decoder_only: from the folder's own, whose encoder stays as it is.
    """
    import export
    from assemble import WEIGHTS
    from wide_autoencoder import WideAutoencoder, start_from

    torch.manual_seed(0)
    start = folder if decoder_only else flow_file.WEIGHTS
    if (start / flow_file.AUTOENCODER).exists():
        model = flow_file.read_autoencoder(start).requires_grad_(True).train()
    else:
        model = WideAutoencoder()
        start_from(model, export.load_autoencoder(export.read(WEIGHTS)))
    name = "decoder" if decoder_only else "autoencoder"
    return Training(name, model, folder, rate, warmup=50, device=device, decay=0.998,
                    make_optimizer=MuonBesideAdam)


def train_autoencoder(training: Training, options: argparse.Namespace, deadline: Deadline) -> None:
    """Up to the deadline. decoder_only: once a network knows the latents, they stay as they are."""
    from wide_images import MixedBatches, wide_loss

    training.model.taesd_encoder.requires_grad_(not options.decoder_only)
    batches = MixedBatches(training.device)

    def loss() -> torch.Tensor:
        return wide_loss(training.model, *batches.at(training.seed(options.batch), options.batch))

    run(training, loss, options.batch, options.samples, deadline)
    if together.place() > 0:
        return
    save_file(flow_file.autoencoder_tensors(training.averaged()),
              options.folder / flow_file.AUTOENCODER)


def flow_training(folder: Path, device: torch.device, rate: float, captions,
                  **sizes) -> Training:
    """From the shipped network, or where there is none from a fresh one."""
    from hints import Learner
    from wan import notice_captions

    torch.manual_seed(0)
    shipped = flow_file.read()
    if shipped:
        network = flow_file.network_of(shipped)
    else:
        network = flow_file.fresh(**sizes)
        notice_captions(network, captions.embedded[1:400])
    return Training("flow", Learner(network), folder, rate, warmup=100, device=device,
                    decay=0.999, make_optimizer=MuonBesideAdam)


def latent_stores(captions, options: argparse.Namespace) -> list:
    """Latents of the autoencoder in training, or of the shipped one where there is no other.

    Batches are drawn from each in turn: squares, and pictures twice as wide if asked for, which did
    RIVAL no good (docs/quality.md, On a flow model).
    """
    from flow_data import LatentStore

    trained = (options.folder / flow_file.AUTOENCODER).exists()
    autoencoder = flow_file.read_autoencoder(options.folder if trained else flow_file.WEIGHTS)
    autoencoder = autoencoder.to(options.device)
    return [LatentStore(captions, autoencoder, options.folder, options.size, ratio)
            for ratio in ((1, 2) if options.wide else (1,))]


def make_latents(captions, options: argparse.Namespace, deadline: Deadline) -> None:
    """Ahead of the network, in another process: from where it is up to so many samples."""
    from flow_data import newest_round

    state, stores = options.folder / "flow.pt", latent_stores(captions, options)
    done = torch.load(state, weights_only=True, mmap=True)["samples"] if state.exists() else 0
    for number in range(newest_round(done), newest_round(options.samples) + 1):
        for store in stores:
            if deadline.passed():
                return
            store.round(number)
            print(f"round {number} of {store.folder.name}", flush=True)


def train_flow(training: Training, captions, options: argparse.Namespace,
               deadline: Deadline) -> None:
    """Up to the deadline."""
    from hints import hints

    stores, learner = latent_stores(captions, options), training.model
    if options.compile:
        for block in learner.network.blocks:
            block.compile(dynamic=False)

    def loss() -> torch.Tensor:
        store = stores[training.step % len(stores)]
        latents, text, scenes, generator = store.at(training.seed(options.batch), options.batch)
        parts = (part.to(training.device) for part in (latents, text, hints(scenes)))
        return learner.loss(*parts, generator)

    run(training, loss, options.batch, options.samples, deadline)
    if together.place() > 0:
        return
    # The last weights are better than their average when the rate has fallen to zero.
    trained = learner if options.slowing else training.averaged()
    flow_file.write(options.folder, flow_file.host_tensors(trained.network))


def main() -> None:
    options = _options()
    together.join()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    deadline = Deadline(options.minutes, options.slowing)
    deadline.catch_signals()
    options.batch = options.batch or BATCHES.get(options.what)
    rate = options.rate or RATES.get(options.what)
    if options.what == "autoencoder":
        training = autoencoder_training(options.folder, device, rate, options.decoder_only)
        train_autoencoder(training, options, deadline)
    else:
        from flow_data import Captions

        captions = Captions(options.captions, options.folder, device)
        if options.what == "latents":
            return make_latents(captions, options, deadline)
        training = flow_training(options.folder, device, rate, captions)
        train_flow(training, captions, options, deadline)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["autoencoder", "latents", "flow"])
    parser.add_argument("--minutes", type=float, required=True, help="for this chunk, about")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--samples", type=int, default=10**9, help="in all")
    parser.add_argument("--rate", type=float, help="the learning rate in this chunk")
    parser.add_argument("--slowing", action="store_true",
                        help="let the rate fall to zero over this chunk: do so in the last one")
    parser.add_argument("--size", type=int, default=SIZE,
                        help="of the flow's pictures in pixels; half of it teaches much of the "
                        "same in a third of the time: do so in the first chunks")
    parser.add_argument("--wide", action="store_true",
                        help="every second of the flow's batches is of pictures twice as wide")
    parser.add_argument("--captions", type=int, help="train on the first so many captions only")
    parser.add_argument("--decoder-only", action="store_true",
                        help="the encoder, and with it the latents, stay as they are")
    parser.add_argument("--compile", action="store_true",
                        help="a third quicker on a CPU after minutes of compiling")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
