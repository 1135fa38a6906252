"""A sheet of what the flow model draws, to look at while training, and its figures.

    python demo/model/flow_contact.py --out /tmp/sheet.png --held-out
"""

from __future__ import annotations

import argparse
from pathlib import Path

import flow_file
import torch
from clip import TextEncoder
from flow import SHIFT, flow_loss, sample
from flow_data import embed
from hints import network_weights
from latents import ROOM
from render import render
from scenes import SIZE, caption, make_scene
from split import is_held_out
from state import read_average
from train_flow import FOLDER
from wide_images import MEASURED_SEEDS, decibels, measured_scenes

FIRST_SEED = 5 * 10**9  # never trained on


@torch.no_grad()
def sheet(network, autoencoder, options: argparse.Namespace,
          encoder: TextEncoder) -> tuple[torch.Tensor, list[str]]:
    """Scenes, their reconstructions and rows of samples of their captions, [3, h, w]."""
    size = options.size
    scenes = [make_scene(seed, size=size)
              for seed in range(FIRST_SEED, FIRST_SEED + 60 * options.columns)]
    scenes = [s for s in scenes if is_held_out(s.attributes) == options.held_out
              and s.attributes.count * ROOM <= size**2][:options.columns]
    images = render(scenes)
    rows = [images, autoencoder.decode(autoencoder.encode(images))]
    texts = [caption(scene.attributes) for scene in scenes]
    embedded = embed(encoder, ["", *texts])
    for seed in range(options.rows):
        latents = sample(network, embedded[1:], embedded[:1], (size // 8, size // 8), seed,
                         cfg=options.cfg, shift=options.shift)
        rows.append(autoencoder.decode(latents))
    grid = torch.stack(rows).clamp(0, 1)  # [rows, columns, 3, h, w]
    return grid.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2), texts


@torch.no_grad()
def figures(network, autoencoder, size: int, encoder: TextEncoder) -> tuple[float, float]:
    """The autoencoder's decibels and the velocity's loss on scenes that nobody has seen.

    Loss: of captions taught and not, as many as there are; three noises for each scene.
    """
    images = measured_scenes(size)
    texts = [caption(make_scene(seed, size=size).attributes) for seed in MEASURED_SEEDS]
    embedded, latents = embed(encoder, texts), autoencoder.encode(images)
    losses = [flow_loss(network, latents, embedded, torch.Generator().manual_seed(seed))
              for seed in range(3)]
    return decibels(autoencoder, images), torch.stack(losses).mean().item()


def main() -> None:
    from PIL import Image

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--shift", type=float, default=SHIFT)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--held-out", action="store_true", help="captions never trained on")
    parser.add_argument("--shipped", action="store_true", help="what is shipped, not a state")
    parser.add_argument("--last", action="store_true", help="not the average of the weights")
    options = parser.parse_args()
    folder = flow_file.WEIGHTS if options.shipped else options.folder
    if options.shipped:
        network = flow_file.network_of(flow_file.read())
    else:
        network = flow_file.fresh()
        network.load_state_dict(network_weights(read_average(folder / "flow.pt", options.last)))
    autoencoder, encoder = flow_file.read_autoencoder(folder), TextEncoder()
    image, texts = sheet(network.eval(), autoencoder, options, encoder)
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(options.out)
    print(f"{options.out} shows, from left to right:", *texts, sep="\n  ")
    print("autoencoder {:.1f} dB, loss {:.3f}".format(
        *figures(network, autoencoder, options.size, encoder)))


if __name__ == "__main__":
    main()
