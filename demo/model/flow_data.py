"""The flow model's data, on disk: captions as the host's SD3 text loader embeds them, and latents.

Scenes come in groups of one caption, so that a text is read once for all of its group. Latents
are made by the round and kept, for every round is seen several times.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from clip import TextEncoder
from latents import EMPTY_SHARE, ROOM
from render import render
from scenes import SIZE, Scene, caption, make_scene
from split import trained_attributes
from torch import Tensor
from wide_autoencoder import WideAutoencoder

GROUP = 4  # scenes of one caption, in a row
SCENES_PER_ROUND = 2048
PASSES = 8  # over each round, on average
WINDOW = 8  # rounds that a batch is drawn from
ENCODE_BATCH = 32
TEXTS_AT_ONCE = 32


@torch.no_grad()
def embed(encoder: TextEncoder, texts: list[str]) -> Tensor:
    """[n, 77, 768]: the last layer but one, without the final norm, as CLIPLoader's `sd3` gives."""
    tokens = torch.tensor([encoder.vocabulary.tokens(text) for text in texts])
    tokens = tokens.to(encoder.model.device)
    return encoder.model(tokens, output_hidden_states=True).hidden_states[-2].float()


class Captions:
    """Embeddings of the captions to train on after that of the empty text, kept in a file.

    In bf16, several times quicker here: it is off by a fiftieth of what tells captions apart.
    """

    def __init__(self, count: int | None, folder: Path, device: torch.device | str = "cpu"):
        self.attributes = trained_attributes(count)
        texts = ["", *map(caption, self.attributes)]
        digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]
        path = folder / f"flow-captions-{digest}.pt"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(self._embed(texts, torch.device(device)), path)
        self.embedded = torch.load(path, weights_only=True, mmap=True)

    def _embed(self, texts: list[str], device: torch.device) -> Tensor:
        print(f"embedding {len(texts)} captions", flush=True)
        encoder, parts = TextEncoder(), []
        encoder.model.to(device)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            with torch.autocast(device.type, torch.bfloat16):
                part = embed(encoder, texts[start:start + TEXTS_AT_ONCE])
            parts.append(part.half().cpu())
        return torch.cat(parts)


def newest_round(samples: int) -> int:
    """The last round that is drawn from after so many samples."""
    return samples // (SCENES_PER_ROUND * PASSES)


def _digest(autoencoder: WideAutoencoder) -> str:
    """Of the encoder, so that another one's latents are never taken for its."""
    parts = autoencoder.taesd_encoder.state_dict().values()
    weights = [part.half().cpu().numpy().tobytes() for part in parts]
    return hashlib.sha256(b"".join(weights)).hexdigest()[:8]


class LatentStore:
    """Rounds of latents on disk, made where the autoencoder is when first asked for.

    ratio: of the width to the size.
    """

    def __init__(self, captions: Captions, autoencoder: WideAutoencoder, folder: Path,
                 size: int = SIZE, ratio: int = 1):
        self.captions, self.autoencoder, self.size, self.ratio = captions, autoencoder, size, ratio
        shape = f"{size}" if ratio == 1 else f"{size}x{size * ratio}"
        self.folder = folder / f"latents-{shape}-{_digest(autoencoder)}"
        self.folder.mkdir(parents=True, exist_ok=True)
        fits = [a.count * ROOM <= size**2 * ratio for a in captions.attributes]
        self.fitting = torch.tensor(fits).nonzero().flatten()
        self.rounds: dict[int, tuple[Tensor, Tensor]] = {}
        kept = [int(path.stem) for path in self.folder.glob("*.pt")]
        self.oldest = min(kept, default=None)  # none is made of what another size has seen

    def at(self, samples: int,
           size: int) -> tuple[Tensor, Tensor, list[Scene], torch.Generator]:
        """The batch after so many samples: [n, 16, h, w], [n / 4, 77, 768], scenes, a generator."""
        generator = torch.Generator().manual_seed(samples)
        newest = newest_round(samples)
        self.oldest = newest if self.oldest is None else self.oldest
        groups = size // GROUP
        window = min(WINDOW, newest - self.oldest + 1)
        picks = newest - torch.randint(window, (groups,), generator=generator)
        places = torch.randint(SCENES_PER_ROUND // GROUP, (groups,), generator=generator)
        picks = [*zip(picks.tolist(), places.tolist())]
        chosen = [self._group(*pick) for pick in picks]
        scenes = [self._scene(number, place * GROUP + i, row.item() - 1)
                  for (number, place), (_, row) in zip(picks, chosen) for i in range(GROUP)]
        named = torch.rand(groups, generator=generator) >= EMPTY_SHARE
        rows = torch.stack([row for _, row in chosen]) * named
        latents = torch.cat([latents for latents, _ in chosen]).float()
        return latents, self.captions.embedded[rows].float(), scenes, generator

    def _group(self, number: int, place: int) -> tuple[Tensor, Tensor]:
        if number not in self.rounds:
            self.rounds = {n: kept for n, kept in self.rounds.items() if n > number - WINDOW}
            self.rounds[number] = self.round(number)
        latents, rows = self.rounds[number]
        return latents[place * GROUP:(place + 1) * GROUP], rows[place]

    def _scene(self, number: int, place: int, row: int) -> Scene:
        return make_scene(number * SCENES_PER_ROUND + place, self.captions.attributes[row],
                          self.size, self.ratio)

    def round(self, number: int) -> tuple[Tensor, Tensor]:
        """Its latents in half precision and the row of each group's caption, from its file."""
        path = self.folder / f"{number}.pt"
        if not path.exists():
            partial = path.with_suffix(f".{os.getpid()}.partial")
            torch.save(self._draw(number), partial)
            partial.replace(path)
        return torch.load(path, weights_only=True)

    @torch.no_grad()
    def _draw(self, number: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(number)
        groups = SCENES_PER_ROUND // GROUP
        rows = self.fitting[torch.randint(len(self.fitting), (groups,), generator=generator)]
        of_scene, latents = rows.repeat_interleave(GROUP).tolist(), []
        device = next(self.autoencoder.parameters()).device
        for start in range(0, SCENES_PER_ROUND, ENCODE_BATCH):
            scenes = [self._scene(number, i, of_scene[i])
                      for i in range(start, start + ENCODE_BATCH)]
            images = render(scenes, device).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                latents.append(self.autoencoder.encode(images).half().cpu())
        return torch.cat(latents), rows + 1
