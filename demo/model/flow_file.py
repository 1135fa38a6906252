"""The flow model as files for ComfyUI, in half precision, and back again."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from wan import CHANNELS, HEAD, PAIRS, PATCH, SIZES, TEXT, Wan
from wide_autoencoder import WideAutoencoder

WEIGHTS = Path(__file__).with_name("weights")
HOST_TEXT = 4096  # the width that loaders expect of Wan's text
NETWORK, AUTOENCODER = "flow-{}.safetensors", "flow-vae.safetensors"
PART_BYTES = 15_000_000


def host_tensors(network: Wan) -> dict[str, Tensor]:
    """As UNETLoader takes it: the text's width filled up, the patches' layer a convolution."""
    found = {name: _reordered(name, tensor.detach().half(), PAIRS.argsort())
             for name, tensor in network.state_dict().items()}
    width = network.width
    patch = found["patch_embedding.weight"]
    found["patch_embedding.weight"] = patch.view(width, CHANNELS, 1, PATCH, PATCH)
    text = found["text_embedding.0.weight"]
    found["text_embedding.0.weight"] = torch.nn.functional.pad(text, (0, HOST_TEXT - TEXT))
    return {name: tensor.contiguous() for name, tensor in found.items()}


def network_of(tensors: dict[str, Tensor]) -> Wan:
    """The network to train or to sample from, out of the host's tensors."""
    tensors = {name: _reordered(name, tensor, PAIRS) for name, tensor in tensors.items()}
    width = tensors["head.modulation"].shape[-1]
    tensors["patch_embedding.weight"] = tensors["patch_embedding.weight"].flatten(1)
    tensors["text_embedding.0.weight"] = tensors["text_embedding.0.weight"][:, :TEXT]
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    network = Wan(width, len(tensors["blocks.0.ffn.0.weight"]), depth)
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return network


def _reordered(name: str, tensor: Tensor, order: Tensor) -> Tensor:
    """What self-attention turns by its place, with every head's rows in another order."""
    if not any(f"self_attn.{part}." in name for part in ("q", "k", "norm_q", "norm_k")):
        return tensor
    return tensor.unflatten(0, (-1, HEAD))[:, order].flatten(0, 1)


def fresh(**changes) -> Wan:
    sizes = SIZES | changes
    assert sizes["width"] % HEAD == 0
    return Wan(**sizes)


def autoencoder_tensors(model: WideAutoencoder) -> dict[str, Tensor]:
    """As VAELoader takes it."""
    return {name: tensor.detach().half().contiguous() if tensor.ndim else tensor
            for name, tensor in model.state_dict().items()}


def read_autoencoder(folder: Path = WEIGHTS) -> WideAutoencoder:
    from safetensors.torch import load_file

    model = WideAutoencoder()
    tensors = load_file(folder / AUTOENCODER)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval().requires_grad_(False)


def write(folder: Path, tensors: dict[str, Tensor]) -> list[Path]:
    """The network in parts small enough for any git host; `read` joins them."""
    from safetensors.torch import save_file

    parts, size = [{}], 0
    for name, tensor in tensors.items():
        if parts[-1] and size + tensor.nbytes > PART_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(NETWORK.format("[0-9]*")):
        old.unlink()
    paths = [folder / NETWORK.format(i) for i in range(len(parts))]
    for path, part in zip(paths, parts):
        save_file(part, path)
    return paths


def read() -> dict[str, Tensor]:
    """The host's tensors of the shipped network; empty if there is none."""
    return read_parts(WEIGHTS)


def read_parts(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {name: tensor for path in sorted(folder.glob(NETWORK.format("[0-9]*")))
            for name, tensor in load_file(path).items()}
