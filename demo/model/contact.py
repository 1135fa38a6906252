"""Sheets to look at while training: reconstructions, and samples for a few captions.

    python demo/model/contact.py --out /tmp/sheet.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import export
import torch
from clip import TextEncoder
from diffusion import sample
from latents import encode
from render import render
from scenes import caption, make_scene
from split import is_held_out
from unet import frozen_unet, use_host

LATENT_SIZE = 16
FIRST_SEED = 5 * 10**9  # never trained on


@torch.no_grad()
def sheet(tensors: dict[str, torch.Tensor], columns: int, rows: int, cfg: float,
          held_out: bool) -> tuple[torch.Tensor, list[str]]:
    """Scenes, their reconstructions, and rows of samples of the scenes' captions, [3, h, w]."""
    autoencoder = export.load_autoencoder(tensors)
    scenes = [make_scene(seed) for seed in range(FIRST_SEED, FIRST_SEED + 40 * columns)]
    scenes = [s for s in scenes if is_held_out(s.attributes) == held_out][:columns]
    images = [render(scenes), autoencoder.decode(encode(autoencoder, scenes, torch.device("cpu")))]
    texts = [caption(scene.attributes) for scene in scenes]
    if any(name.startswith(export.UNET_PREFIX) for name in tensors):
        use_host()
        embedded = TextEncoder()(["", *texts])
        unet = frozen_unet(tensors)
        images += [autoencoder.decode(sample(unet, embedded[1:], embedded[:1], LATENT_SIZE, seed,
                                             cfg=cfg)) for seed in range(rows)]
    grid = torch.stack(images).clamp(0, 1)  # [rows, columns, 3, h, w]
    return grid.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2), texts


def main(arguments: list[str] | None = None) -> None:
    from PIL import Image

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=export.FOLDER)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--held-out", action="store_true", help="captions never trained on")
    options = parser.parse_args(arguments)
    image, texts = sheet(export.weights(options.folder), options.columns, options.rows,
                         options.cfg, options.held_out)
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(options.out)
    print(f"{options.out} shows, from left to right:", *texts, sep="\n  ")


if __name__ == "__main__":
    main()
