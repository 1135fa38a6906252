"""Writes the trained weights as the files that are shipped, and reads those again.

    python demo/model/export.py

The tensors carry ComfyUI's names and are half precision, in files small enough for any git host.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from autoencoder import Autoencoder

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / ".cache" / "training"
SHARD_BYTES = 15_000_000
UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."


def weights(folder: Path, last: bool = False) -> dict[str, torch.Tensor]:
    """The averaged weights of both models, in half precision but for single numbers.

    last: the UNet's last ones instead, which are better once its rate has fallen to zero.
    """
    tensors = {}
    for name, prefix in (("unet", UNET_PREFIX), ("autoencoder", VAE_PREFIX)):
        path = folder / f"{name}.pt"
        if path.exists():
            kept = "model" if last and name == "unet" else "average"
            trained = torch.load(path, map_location="cpu", weights_only=True)[kept]
            tensors |= {prefix + key: (tensor.half() if tensor.ndim else tensor).contiguous()
                        for key, tensor in trained.items()}
    return tensors


def write(tensors: dict[str, torch.Tensor], out: Path) -> list[Path]:
    """Shards `part-0.safetensors` and so on, each with whole tensors of its own."""
    from safetensors.torch import save_file

    shards, size = [{}], 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("part-*.safetensors"):
        old.unlink()
    paths = [out / f"part-{i}.safetensors" for i in range(len(shards))]
    for path, shard in zip(paths, shards):
        save_file(shard, path)
    return paths


def read(out: Path) -> dict[str, torch.Tensor]:
    """All shards as one checkpoint, but for the text encoder."""
    from safetensors.torch import load_file

    return {name: tensor for path in sorted(out.glob("part-*.safetensors"))
            for name, tensor in load_file(path).items()}


def load_autoencoder(tensors: dict[str, torch.Tensor]) -> Autoencoder:
    model = Autoencoder()
    model.load_state_dict({name.removeprefix(VAE_PREFIX): tensor.float()
                           for name, tensor in tensors.items() if name.startswith(VAE_PREFIX)})
    return model.eval().requires_grad_(False)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("weights"))
    parser.add_argument("--last", action="store_true",
                        help="the UNet's last weights, not their average: after --slowing")
    options = parser.parse_args(arguments)
    paths = write(weights(options.folder, options.last), options.out)
    size = sum(path.stat().st_size for path in paths)
    print(f"wrote {len(paths)} files, {size / 1e6:.1f} MB, to {paths[0].parent}")


if __name__ == "__main__":
    main()
