"""Chains by a scheme as files: format 2, with what stands beside the latents."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from chain_files import Parts, edit, make_chain, refuses, same
from comfyui_rival.rival_core.chain import file as chain_file
from comfyui_rival.rival_core.chain.file import load, save
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.inversion.fixed_point import Solver
from comfyui_rival.rival_core.inversion.schemes import SCHEMES


def by_scheme(name: str, **changes):
    """A chain of 3 steps, latents [4, 4, 2, 3]."""
    generator = torch.Generator().manual_seed(1)
    sizes = {"partner": (4, 4, 2, 3), "noise": (3, 4, 2, 3)}
    beside = {kept: torch.randn(sizes[kept], generator=generator) for kept in SCHEMES[name].leaves}
    coupling = 0.0 if SCHEMES[name].coupling is None else 0.95
    solver = Solver(name, coupling=coupling, seed=2**64 - 1)
    return make_chain(**{"solver": solver, "residuals": None, **beside, **changes})


def saved(chain, folder) -> Parts:
    save(chain, folder / "given.safetensors")
    return Parts((folder / "given.safetensors").read_bytes())


@pytest.mark.parametrize("name", SCHEMES)
def test_every_field_comes_back_bitwise(tmp_path, name):
    chain = by_scheme(name)
    parts = saved(chain, tmp_path)
    assert parts.description["version"] == 2
    loaded = load(tmp_path / "given.safetensors").chain
    assert same(loaded, chain) and loaded.get_ram_usage() == chain.get_ram_usage()
    assert chain.get_ram_usage() > make_chain().get_ram_usage() or not chain.beside


def test_what_older_packs_know_is_still_format_1(tmp_path):
    """Whatever a newer widget said that such a solver has no use for."""
    parts = saved(make_chain(solver=Solver("anderson", coupling=0.3, seed=4)), tmp_path)
    assert parts.description["version"] == 1
    assert set(parts.description["solver"]) == {
        "name", "iterations", "tolerance", "window", "mixing"}
    assert load(tmp_path / "given.safetensors").chain.solver == Solver("anderson")


SOLVER = "description/solver"
WRONG = {
    "obelm as format 1": ("obelm", edit("description/version", 1)),
    "ddim as format 2": ("obelm", edit(f"{SOLVER}/name", "ddim")),
    "a coupling that edict has not": ("edict", edit(f"{SOLVER}/coupling", 0.2)),
    "an endless coupling": ("bdia", edit(f"{SOLVER}/coupling", 1e999)),
    "a coupling of text": ("bdia", edit(f"{SOLVER}/coupling", "1")),
    "half a seed": ("obelm", edit(f"{SOLVER}/seed", 0.5)),
    "a negative seed": ("obelm", edit(f"{SOLVER}/seed", -1)),
    "a seed beyond 64 bits": ("obelm", edit(f"{SOLVER}/seed", 2**64)),
    "a seed that is true": ("obelm", edit(f"{SOLVER}/seed", True)),
    "edict without its partner": ("bdia", edit(f"{SOLVER}/name", "edict")),
    "maps that obelm does not leave": ("edit_friendly", edit(f"{SOLVER}/name", "obelm")),
    "a partner that is the maps": ("edit_friendly", edit(f"{SOLVER}/name", "edict")),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_headers_that_make_no_chain(tmp_path, name):
    solver, change = WRONG[name]
    parts = saved(by_scheme(solver), tmp_path)
    change(parts)
    (tmp_path / "given.safetensors").write_bytes(parts.join())
    with refuses("damaged"):
        load(tmp_path / "given.safetensors")


WRONG_TENSORS = {
    "fewer": lambda t: t[:-1],
    "more": lambda t: torch.cat([t, t[:1]]),
    "of another size": lambda t: t.transpose(2, 3),
    "of more dimensions": lambda t: t[:, :, None],
    "double": lambda t: t.double(),
    "nan": lambda t: t * float("nan"),
    "infinite": lambda t: t / 0,
}


@pytest.mark.parametrize("name", WRONG_TENSORS)
@pytest.mark.parametrize("solver", ["edict", "edit_friendly"])
def test_tensors_that_make_no_chain(tmp_path, solver, name):
    chain = by_scheme(solver)
    parts = saved(chain, tmp_path)
    (kept,) = chain.beside
    parts.replace(kept, WRONG_TENSORS[name](chain.beside[kept]))
    (tmp_path / "given.safetensors").write_bytes(parts.join())
    with refuses("damaged"):
        load(tmp_path / "given.safetensors")


@pytest.mark.parametrize("solver", ["edict", "edit_friendly"])
def test_numbers_beyond_any_models(tmp_path, solver):
    chain = by_scheme(solver)
    (kept,) = chain.beside
    huge = dataclasses.replace(chain, **{kept: chain.beside[kept] * 1e9})
    with pytest.raises(RivalError, match="latents beyond what any model has"):
        save(huge, tmp_path / "given.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_chain_lies_on_the_device_with_what_is_beside_it():
    chain = chain_file.moved(by_scheme("edict"), "meta")
    assert chain.latents.is_meta and chain.partner.is_meta
    assert chain_file.moved(by_scheme("edit_friendly"), "meta").noise.is_meta
