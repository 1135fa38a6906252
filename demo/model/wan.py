"""The flow model's network, to train: Wan 2.1's for one frame, under its parameter names.

ComfyUI's own class writes in place and reads text of width 4096; this one does neither, and the
residual stream stays float32 where the rest is autocast. `flow_file.py` makes the host's file.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

EPS = 1e-6
HEAD = 128  # loaders take a head for every 128 of the width
FREQUENCIES = 256
PATCH = 2
CHANNELS = 16
TEXT = 768  # of CLIP-L; what the host pads it with are zeros, whose weights would learn nothing
SIZES = {"width": 384, "hidden": 1280, "depth": 6}


class Attention(nn.Module):
    """Of images to themselves, or to a text that several images in a row share.

    processor: what is made of queries, keys and values, so that somebody may stand in between.
    """

    def __init__(self, width: int):
        super().__init__()
        self.heads = width // HEAD
        self.processor = attention
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(width, eps=EPS), nn.RMSNorm(width, eps=EPS)

    def forward(self, x: Tensor, other: Tensor, turns: Tensor | None = None) -> Tensor:
        """x: [n, length, width]; other: [m, tokens, width], where m divides n."""
        q = self._split(_normed(self.q(x), self.norm_q), turns)
        k = self._split(_normed(self.k(other), self.norm_k), turns)
        v = self._split(self.v(other), None)
        shape = q.shape
        q = q.unflatten(0, (len(other), -1)).transpose(1, 2).flatten(2, 3)  # heads before images
        out = self.processor(q, k, v).unflatten(2, (-1, shape[2]))
        return self.o(out.permute(0, 2, 3, 1, 4).reshape(x.shape))

    def set_processor(self, processor: Callable[..., Tensor]) -> None:
        self.processor = processor

    def _split(self, x: Tensor, turns: Tensor | None) -> Tensor:
        """[n, length, width] to [n, heads, length, 128], turned by its place if there is one."""
        x = x.unflatten(-1, (self.heads, HEAD)).transpose(1, 2)
        return x if turns is None else turned(x, turns)


class Block(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.self_attn, self.cross_attn = Attention(width), Attention(width)
        self.norm3 = nn.LayerNorm(width, eps=EPS)
        self.ffn = nn.Sequential(nn.Linear(width, hidden), nn.GELU("tanh"),
                                 nn.Linear(hidden, width))
        self.modulation = nn.Parameter(torch.zeros(1, 6, width))

    def forward(self, x: Tensor, e: Tensor, turns: Tensor, text: Tensor) -> Tensor:
        """x: [n, length, width], e: [n, 6, width], text: [m, tokens, width]."""
        shift, scale, gate, shift_2, scale_2, gate_2 = (self.modulation + e).split(1, dim=1)
        y = _modulated(x, shift, scale)
        x = x + gate * self.self_attn(y, y, turns)
        x = x + self.cross_attn(self.norm3(x), text)
        return x + gate_2 * self.ffn(_modulated(x, shift_2, scale_2))


class Head(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.head = nn.Linear(width, CHANNELS * PATCH**2)
        self.modulation = nn.Parameter(torch.zeros(1, 2, width))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.head(_modulated(x, *(self.modulation + e[:, None]).split(1, dim=1)))


class Wan(nn.Module):
    """Velocities, that is noise minus picture."""

    def __init__(self, width: int, hidden: int, depth: int):
        super().__init__()
        self.width = width
        self.patch_embedding = nn.Linear(CHANNELS * PATCH**2, width)
        self.text_embedding = nn.Sequential(nn.Linear(TEXT, width), nn.GELU("tanh"),
                                            nn.Linear(width, width))
        self.time_embedding = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(),
                                            nn.Linear(width, width))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(Block(width, hidden) for _ in range(depth))
        self.head = Head(width)
        self._begin()

    def _begin(self) -> None:
        """Every residual branch and the prediction begin at zero."""
        silent = [self.head.head, self.time_projection[1]]
        for block in self.blocks:
            silent += [block.self_attn.o, block.cross_attn.o, block.ffn[2]]
            block.modulation.data[:, [2, 5]] = 1
        for layer in silent:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, sigma: Tensor, text: Tensor, reader: nn.Module | None = None
                ) -> Tensor | tuple[Tensor, Tensor]:
        """x: [n, 16, h, w]; sigma: [n] in 0..1; text: [m, tokens, 768], m divides n, in order.

        reader: given the hidden state half way, [n, h/2 * w/2, width]; what it says comes, too.
        """
        rows, columns = (length // PATCH for length in x.shape[2:])
        turns = places(rows, columns, x.device)
        hidden = self.patch_embedding(patches(x)).float()
        e = self.time_embedding(waves(1000 * sigma)).float()
        each = self.time_projection(e).float().unflatten(1, (6, self.width))
        text = self.text_embedding(text)
        for number, block in enumerate(self.blocks, start=1):
            hidden = block(hidden, each, turns, text)
            if number == (len(self.blocks) + 1) // 2:
                middle = hidden
        velocity = pictures(self.head(hidden, e).float(), rows, columns)
        return velocity if reader is None else (velocity, reader(middle))


def patches(x: Tensor) -> Tensor:
    """[n, c, h, w] to [n, h/2 * w/2, c * 4], as Wan's convolution reads them."""
    n, c, h, w = x.shape
    x = x.view(n, c, h // PATCH, PATCH, w // PATCH, PATCH)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // PATCH**2, c * PATCH**2)


def pictures(x: Tensor, rows: int, columns: int) -> Tensor:
    """[n, rows * columns, 4 * c], channels innermost, to [n, c, h, w]."""
    x = x.view(len(x), rows, columns, PATCH, PATCH, -1).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(len(x), -1, rows * PATCH, columns * PATCH)


def waves(times: Tensor) -> Tensor:
    """[n] to [n, 256]."""
    half = FREQUENCIES // 2
    rates = torch.pow(10000, -torch.arange(half, device=times.device) / half)
    angles = times[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def places(rows: int, columns: int, device: torch.device) -> Tensor:
    """The turns of an image's tokens, [2, rows * columns, 64]."""
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device),
                          indexing="ij")
    return turns_at(y.flatten(), x.flatten())


def turns_at(y: Tensor, x: Tensor) -> Tensor:
    """Cosines and sines of the turns of every pair in a head at n places, [2, n, 64].

    The frame's pairs come first and stay as they are, for there is one frame only.
    """
    side = 2 * (HEAD // 6)
    rates = 10000.0 ** -(torch.arange(0, side, 2, device=y.device, dtype=torch.float64) / side)
    angles = torch.cat([torch.zeros(len(y), HEAD // 2 - side, device=y.device),
                        y[:, None] * rates, x[:, None] * rates], dim=1)
    return torch.stack([angles.cos(), angles.sin()]).float()


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Every pair in [..., length, 128] turned by [2, length, 64]; see `PAIRS`."""
    cos, sin = turns.to(x.dtype).repeat(1, 1, 2)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


# Where the host keeps what a head holds here: its pairs are neighbours, and here all first parts
# come before all second ones, which is quicker to turn.
PAIRS = torch.arange(HEAD).view(-1, 2).T.flatten()


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[n, heads, length, 128] each; so few tokens are quicker without PyTorch's own kernel."""
    weights = (q @ k.transpose(2, 3)).float().mul(HEAD**-0.5).softmax(dim=-1)
    return weights.to(v.dtype) @ v


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift


def _normed(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    return rms_norm(x, x.shape[-1:], norm.weight.to(x.dtype), EPS)


@torch.no_grad()
def notice_captions(network: Wan, tokens: Tensor, directions: int = 96) -> None:
    """Begin with text features that tell captions apart. tokens: [n, 77, 768] of n captions.

    The first layer reads the directions in which captions differ at the same place, each at unit
    variance: beside what they have in common the differences are small.
    """
    layer = network.text_embedding[0]
    words = tokens[:, 1:16].float()
    deviations = (words - words.mean(dim=0)).flatten(0, 1) / math.sqrt(words.shape[0] * 15)
    _, spread, axes = torch.linalg.svd(deviations, full_matrices=False)
    generator = torch.Generator().manual_seed(0)
    directions = min(directions, len(axes) // 2)
    mix = torch.randn(len(layer.weight), directions, generator=generator) / directions**0.5
    layer.weight.copy_(mix @ (axes[:directions] / spread[:directions, None]))
    layer.bias.copy_(-layer.weight @ words.mean(dim=(0, 1)))
