"""Training in two processes: what they agree on, and that they stay alike."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demo" / "model"))

import together
from muon import MuonBesideAdam
from state import Training
from training import CPU


class Blocks(nn.Module):
    """Three matrices of one shape for Muon, an odd number for two; a bias for AdamW."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(4, 6) for _ in range(3))

    def loss(self, seed: int) -> torch.Tensor:
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
        return sum((block(x) - 1).square().mean() for block in self.blocks)


def trained(folder: Path, batch: int, loss) -> Training:
    training = Training("blocks", Blocks(), folder, 0.1, warmup=1, device=CPU,
                        make_optimizer=MuonBesideAdam)
    for _ in range(2):
        training.update(loss(training), batch * together.count())
    training.save()
    return training


def one_of_two(place: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=place, world_size=2)
    assert (together.count(), together.place()) == (2, place)
    assert together.as_first(3.5 + place) == 3.5
    training = trained(folder / str(place), 7, lambda t: t.model.loss(t.seed(7)))
    torch.save(training.model.state_dict(), folder / f"{place}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.any_host
def test_two_processes_learn_as_one_from_both_their_batches(tmp_path):
    mp.spawn(one_of_two, (tmp_path,), nprocs=2)
    one = trained(tmp_path / "one", 14, lambda t: (t.model.loss(t.samples)
                                                   + t.model.loss(t.samples + 7)) / 2)
    first, second = (torch.load(tmp_path / f"{place}.pt") for place in range(2))
    for name, weight in one.model.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], weight, rtol=0, atol=3e-3)  # Muon is in bf16
    assert [(tmp_path / str(place) / "blocks.pt").exists() for place in range(2)] == [True, False]
