"""Trains the demo model: the autoencoder first, then the UNet on its latents.

    python demo/model/train.py --minutes 20                  # goes on from where it was cut
    python demo/model/train.py --minutes 10 --device cuda --batch 256

Everything it needs to go on lies in `.cache/training`; every run ends by writing the weights
and a few samples there. Needs the host's requirements, so run it with their Python.
"""

from __future__ import annotations

import argparse
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

import together
import torch
from autoencoder import Autoencoder, start_as_mosaic
from diffusion import noise_loss
from images import ImageBatches, autoencoder_loss
from scenes import SIZE
from state import Training

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / ".cache" / "training"
REPORT_EVERY = 20.0  # seconds
SAVE_EVERY = 120.0


class Deadline:
    """When a chunk ends: after its minutes, or at the first Ctrl-C or kill; either way it saves."""

    def __init__(self, minutes: float, slowing: bool = False):
        self.start = time.monotonic()
        self.end = self.start + 60 * minutes
        self.slowing = slowing

    def share_of_rate(self) -> float:
        """1, or what falls from 1 to 0 over the chunk."""
        if not self.slowing:
            return 1.0
        left = (self.end - time.monotonic()) / (self.end - self.start)
        return max(0.0, together.as_first(left))

    def passed(self) -> bool:
        return together.as_first(time.monotonic() - self.end) >= 0

    def catch_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._cut)

    def _cut(self, *_) -> None:
        self.end = -math.inf
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one means it


def autoencoder_training(folder: Path, device: torch.device) -> Training:
    torch.manual_seed(0)
    model = Autoencoder()
    start_as_mosaic(model)
    return Training("autoencoder", model, folder, rate=5e-4, warmup=50, device=device)


def unet_training(folder: Path, device: torch.device, captions, rate: float = 3e-4,
                  **changes) -> Training:
    from unet import make_unet, notice_captions

    torch.manual_seed(0)
    model = make_unet(**changes)
    notice_captions(model, captions.embedded)
    return Training("unet", model, folder, rate, warmup=100, device=device)


def train_autoencoder(training: Training, batch: int, wanted: int, deadline: Deadline,
                      decoder_only: bool = False) -> None:
    """Up to this many crops in all, or up to the deadline.

    The averaged encoder's latents are what a UNet learns from: once there is one, that encoder
    stays as it is.
    """
    if decoder_only:
        training.model.load_state_dict(training.average)
    batches = ImageBatches(training.device)

    def loss() -> torch.Tensor:
        images, generator = batches.at(training.seed(batch), batch)
        return autoencoder_loss(training.model, images, generator, decoder_only)

    run(training, loss, batch, wanted, deadline)


def train_unet(training: Training, autoencoder: Autoencoder, captions, batch: int, wanted: int,
               deadline: Deadline, size: int = SIZE) -> None:
    """Up to this many scenes in all, or up to the deadline."""
    from latents import LatentBatches

    batches = LatentBatches(captions, autoencoder, training.device, size)

    def loss() -> torch.Tensor:
        return noise_loss(training.model, *batches.at(training.seed(batch), batch))

    run(training, loss, batch, wanted, deadline)


def run(training: Training, loss: Callable[[], torch.Tensor], batch: int, wanted: int,
         deadline: Deadline) -> None:
    started = said = saved = last = time.monotonic()
    first, losses = training.samples, []
    while training.samples < wanted and not deadline.passed():
        value = loss()
        training.update(value, batch * together.count(), deadline.share_of_rate())
        losses.append(value.detach())
        now = time.monotonic()
        training.seconds += now - last
        last = now
        if now - said > REPORT_EVERY and together.place() == 0:
            mean = torch.stack(losses).mean().item()
            rate = (training.samples - first) / (now - started)
            print(f"{training.name} samples {training.samples} loss {mean:.4f}"
                  f" {rate:.1f} samples/s", flush=True)
            said, losses = now, []
        if now - saved > SAVE_EVERY:
            training.save()
            saved = now
    training.save()


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(automatic if options.device == "auto" else options.device)
    deadline = Deadline(options.minutes, options.slowing)
    deadline.catch_signals()
    images = autoencoder_training(options.folder, device)
    unet_begun = (options.folder / "unet.pt").exists()
    train_autoencoder(images, options.batch, options.crops, deadline, decoder_only=unet_begun)
    if not deadline.passed():
        from unet import use_host

        use_host()
        from latents import Captions

        captions = Captions(options.captions, options.folder, device)
        latents = unet_training(options.folder, device, captions, options.rate)
        train_unet(latents, images.averaged(), captions, options.batch, options.scenes, deadline,
                   options.size)
    import contact
    import export

    export.main(["--folder", str(options.folder), "--out", str(options.folder / "weights")])
    contact.main(["--folder", str(options.folder), "--out", str(options.folder / "sheet.png")])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, required=True, help="for this chunk, about")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crops", type=int, default=20_000, help="for the autoencoder, in all")
    parser.add_argument("--scenes", type=int, default=10**9, help="for the UNet, in all")
    parser.add_argument("--rate", type=float, default=3e-4,
                        help="the UNet's learning rate in this chunk")
    parser.add_argument("--slowing", action="store_true",
                        help="let the rate fall to zero over this chunk: do so in the last one")
    parser.add_argument("--size", type=int, default=SIZE,
                        help="of the UNet's pictures in pixels; half of it is four times as quick "
                        "and teaches much of the same: do so in the first chunks")
    parser.add_argument("--captions", type=int, help="train on the first so many captions only")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
