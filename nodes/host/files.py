"""Chain files in ComfyUI's input and output folders, and nowhere else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import comfy.model_management
import folder_paths
from torch import Tensor

from ...rival_core import chain_file
from ...rival_core.chain import Chain
from ...rival_core.chain_file import Saved, thumbnail
from ...rival_core.errors import RivalError
from .previews import latent_format, picture_of

SUFFIX = ".safetensors"
DOWNSCALE = 8  # image pixels a latent pixel, in every family served


def chain_names() -> list[str]:
    """The chains in the input folder, then the output folder's, marked as ComfyUI marks them."""
    inputs = sorted(chains_in(folder_paths.get_input_directory()))
    outputs = sorted(chains_in(folder_paths.get_output_directory()))
    return [*inputs, *(f"{name} [output]" for name in outputs)]


def chains_in(root: str) -> list[str]:
    """Relative paths with forward slashes, of subfolders' files, too. Opens each SUFFIX file.

    None with a "<": older frontends take the entries of a list for HTML, which may hold a script.
    """
    found = []
    for folder, _, files in os.walk(root):
        for path in (Path(folder, name) for name in files if name.endswith(SUFFIX)):
            name = path.relative_to(root).as_posix()
            usable = "<" not in name and path.is_file() and is_inside(path, root)
            if usable and chain_file.is_chain(path):
                found.append(name)
    return found


def find_chain(name: str) -> Path:
    """The file that a name of `chain_names`, or any other in those folders, stands for."""
    plain, root = folder_paths.annotated_filepath(name)
    roots = [folder_paths.get_input_directory(), folder_paths.get_output_directory()]
    path = Path(root or roots[0], plain)
    if (root or roots[0]) not in roots or not is_inside(path, root or roots[0]):
        raise RivalError(
            f"the file {name!r} is outside the input and output folders: choose one from the list"
        )
    if not path.is_file():
        raise RivalError(
            f"the file {name!r} is not there: choose one from the list, or put it into the input "
            "folder"
        )
    return path


def load_chain(name: str) -> Saved:
    """RivalError says why a file is no chain, or none of this ComfyUI's models."""
    saved = chain_file.load(find_chain(name), comfy.model_management.intermediate_device())
    channels = getattr(latent_format(saved.chain.model.latent_format), "latent_channels", None)
    if channels not in (None, saved.chain.latents.shape[1]):
        raise RivalError(f"{name!r} has latents of another shape than its model: save it anew")
    return saved


def chain_file_digest(name: str) -> str:
    """Of a chain file's content."""
    digest = hashlib.sha256()
    with open(find_chain(name), "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def save_chain(chain: Chain, prefix: str, preview: Tensor | None) -> tuple[str, str]:
    """A new file in the output folder: (its name, its subfolder)."""
    check_prefix(prefix)
    root = folder_paths.get_output_directory()
    height, width = (side * DOWNSCALE for side in chain.latents.shape[2:])
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            prefix, root, width, height
        )
    except OSError as error:
        raise RivalError(
            f"filename_prefix is {prefix!r}, where no file can be made ({error.strerror}): choose "
            "another"
        ) from error
    except Exception as error:  # newer hosts' own refusal, which has no type
        raise outside(prefix) from error
    path = Path(folder, f"{name}_{counter:05}_{SUFFIX}")
    if not is_inside(path, root):  # a date in the prefix may have named a link
        raise outside(prefix)
    chain_file.save(chain, path, preview)
    return path.name, subfolder


def check_prefix(prefix: str) -> None:
    """Raises unless files of this prefix lie in the output folder."""
    root = folder_paths.get_output_directory()
    path = Path(root, prefix)
    if not (is_inside(path, root) and is_inside(path.parent, root)):
        raise outside(prefix)


def outside(prefix: str) -> RivalError:
    return RivalError(
        f"filename_prefix is {prefix!r}, outside the output folder: give a name, or "
        "subfolder/name, in it"
    )


def is_inside(path: Path, root: str) -> bool:
    """Whether a path, wherever its links lead, is in the folder."""
    try:
        return path.resolve().is_relative_to(Path(root).resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a zero byte
        return False


def chain_preview(chain: Chain, vae: object | None) -> Tensor | None:
    """A small picture of the exemplar: decoded, or of its latent's approximate colours."""
    picture = picture_of(chain.clean, chain.model.latent_format, vae)
    return None if picture is None else thumbnail(picture)
