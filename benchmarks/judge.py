"""A small network that names a picture's shape, their number and the background's texture.

It learns from scenes drawn on the spot, blurred and speckled as decoded pictures are, some of them
passed through the autoencoder itself. Captions that are held out are never among them. Its own
accuracy on true scenes is to be printed beside what it says: a judge that errs says little.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "demo" / "model"))

from render import render
from scenes import COUNTS, KINDS, SIZE, TEXTURES, Attributes, Scene, make_scene
from split import trained_attributes

HEADS = {"texture": len(TEXTURES), "kind": len(KINDS), "count": len(COUNTS)}
PATCH = 4  # pixels, each way
FOLDER = REPO / ".cache" / "benchmarks"  # where judges are kept
FIRST_SEED = 8 * 10**9  # of its own scenes: no other part uses them

Pass = Callable[[Tensor], Tensor]  # pictures to the same ones, through the autoencoder


@dataclass(frozen=True)
class Recipe:
    """How a judge is trained; another recipe is another judge."""

    steps: int = 1000
    batch: int = 48
    passed: int = 768  # scenes that go through the autoencoder, once
    rate: float = 3e-3
    seed: int = 0


class Judge(nn.Module):
    """Pictures [n, 3, h, w] in 0..1 to a guess for each of HEADS, {name: [n, classes]}.

    Patches of 4 x 4 pixels become channels first: full resolution at a small picture's cost.
    """

    def __init__(self, widths: Sequence[int] = (48, 96, 128, 128)):
        super().__init__()
        layers, before = [nn.PixelUnshuffle(PATCH)], 3 * PATCH**2
        for place, width in enumerate(widths):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
                       nn.ReLU(), *([] if place % 2 else [nn.MaxPool2d(2)])]
            before = width
        self.features = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({name: nn.Linear(2 * before, n) for name, n in HEADS.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        seen = self.features((4 * images - 2).contiguous(memory_format=torch.channels_last))
        pooled = torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}

    @torch.no_grad()
    def name(self, images: Tensor) -> dict[str, Tensor]:
        """The class of each picture under each head, [n]."""
        return {name: guess.argmax(1) for name, guess in self(images.clamp(0, 1)).items()}


def classes(attributes: Sequence[Attributes]) -> dict[str, Tensor]:
    """What the judge should say, [n] for each head."""
    return {
        "texture": torch.tensor([TEXTURES.index(a.texture) for a in attributes]),
        "kind": torch.tensor([KINDS.index(a.kind) for a in attributes]),
        "count": torch.tensor([a.count - 1 for a in attributes]),
    }


def agreement(judge: Judge, images: Tensor, attributes: Sequence[Attributes]) -> dict[str, Tensor]:
    """1 where the judge names what the attributes say, else 0: [n] for each head."""
    said, true = judge.name(images), classes(attributes)
    return {name: (said[name].cpu() == true[name]).float() for name in HEADS}


def trained_judge(through: Pass, folder: Path, key: str, recipe: Recipe = Recipe()) -> Judge:
    """The recipe's judge for an autoencoder, which `key` names; kept in the folder."""
    digest = hashlib.sha256(f"{key} {json.dumps(asdict(recipe))}".encode()).hexdigest()[:12]
    path = folder / f"judge-{digest}.pt"
    if path.exists():
        judge = Judge()
        judge.load_state_dict(torch.load(path, weights_only=True))
        return judge.eval()
    judge = train(through, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(judge.state_dict(), path)
    return judge


def train(through: Pass, recipe: Recipe) -> Judge:
    """Half of each batch has been through the autoencoder, half is drawn for it."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        judge = Judge().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(recipe.seed)
    choices = trained_attributes()
    passed, passed_as = _passed(through, choices, recipe)
    optimizer = torch.optim.AdamW(judge.parameters(), recipe.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, recipe.steps)
    fresh = recipe.batch // 2
    for step in range(recipe.steps):
        scenes = _scenes(choices, FIRST_SEED + recipe.passed + step * fresh, fresh)
        again = torch.randint(len(passed), (recipe.batch - fresh,), generator=generator)
        images = torch.cat([_worn(render(scenes), generator), passed[again]])
        images = _turned(images, generator)
        true = classes([scene.attributes for scene in scenes] + [passed_as[i] for i in again])
        with torch.autocast("cpu", torch.bfloat16):
            guesses = {name: guess.float() for name, guess in judge(images).items()}
        loss = sum(nn.functional.cross_entropy(guesses[name], true[name]) for name in HEADS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return judge.eval()


def _passed(through: Pass, choices: list, recipe: Recipe) -> tuple[Tensor, list[Attributes]]:
    scenes = _scenes(choices, FIRST_SEED, recipe.passed)
    return through(render(scenes)).clamp(0, 1), [scene.attributes for scene in scenes]


def _scenes(choices: list[Attributes], first: int, count: int) -> list[Scene]:
    """Scenes of these seeds; each class of every attribute is as frequent as it is in choices."""
    generator = torch.Generator().manual_seed(first)
    rows = torch.randint(len(choices), (count,), generator=generator)
    return [make_scene(first + i, choices[row], SIZE) for i, row in enumerate(rows.tolist())]


def _worn(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blurred by a random amount and speckled: not to be told from decoded pictures by that."""
    blurred = nn.functional.avg_pool2d(images, 5, 1, 2, count_include_pad=False)
    share = torch.rand(len(images), 1, 1, 1, generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    return (torch.lerp(images, blurred, share) + 0.03 * noise).clamp(0, 1)


def _turned(images: Tensor, generator: torch.Generator) -> Tensor:
    """The batch mirrored and turned by a quarter or not: a scene's classes stay what they are."""
    flip, turn = torch.randint(4, (2,), generator=generator).tolist()
    return images.rot90(turn, (2, 3)).flip(3) if flip % 2 else images.rot90(turn, (2, 3))
