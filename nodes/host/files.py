"""Chain files in ComfyUI's input and output folders, and nowhere else."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from pathlib import Path, PureWindowsPath

import comfy.model_management
import folder_paths
from torch import Tensor

from ...rival_core.chain import file as chain_file
from ...rival_core.chain.chain import Chain
from ...rival_core.chain.file import Saved, thumbnail
from ...rival_core.chain.whole_file import advice
from ...rival_core.errors import RivalError, shown
from .previews import latent_format, picture_of, pixels_of

SUFFIX = ".safetensors"
NONE_YET = "(none yet: save or upload a chain)"  # shown while there is none; no file's name
MOST_NAME, MOST_PATH = 255, 4096  # bytes that file systems take
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # control characters, half ones, line breaks


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
    if name == NONE_YET:
        raise RivalError(
            "no chain is chosen: save one with RIVAL Save Chain or upload one, and choose it"
        )
    plain, root = folder_paths.annotated_filepath(name) if isinstance(name, str) else (name, None)
    check_name("chain_file", plain)
    roots = [folder_paths.get_input_directory(), folder_paths.get_output_directory()]
    path = Path(root or roots[0], plain)
    if (root or roots[0]) not in roots or not is_inside(path, root or roots[0]):
        raise RivalError(
            f"the file {shown(name)} is outside the input and output folders: choose one from the "
            "list"
        )
    if not is_file(path):
        raise RivalError(
            f"the file {shown(name)} is not there: choose one from the list, or put it into the "
            "input folder"
        )
    return path


def check_name(widget: str, name: str, added: int = 0) -> None:
    """Raises unless a widget's value can be a file's name, or its path in a folder.

    added: bytes that the file's name is longer.
    """
    if not isinstance(name, str):
        raise RivalError(f"{widget} is {shown(name)}, which is no text: give a file's name")
    try:
        sizes = [len(os.fsencode(part)) for part in name.replace(os.sep, "/").split("/")]
    except UnicodeEncodeError:
        raise RivalError(
            f"{widget} is {shown(name)}, which has half a character in it: give another name"
        ) from None
    if max(*sizes, sizes[-1] + added) > MOST_NAME or sum(sizes) + len(sizes) > MOST_PATH:
        raise RivalError(f"{widget} is too long ({shown(name)}): choose a shorter name")


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long a path, a folder that may not be read, a zero byte
        return False


def load_chain(name: str) -> Saved:
    """On the CPU. RivalError says why a file is no chain, or none of this ComfyUI's models."""
    saved = chain_file.load(find_chain(name))
    space, latents = latent_format(saved.chain.model.latent_format), saved.chain.latents
    shape = (latents.shape[1], latents.ndim - 2)
    if space is not None and shape != (space.latent_channels, space.latent_dimensions):
        raise RivalError(
            f"{shown(name)} has latents of another shape than its model: save it anew"
        )
    return saved


def to_intermediate_device(chain: Chain) -> Chain:
    """A loaded chain, where RIVAL Invert would have left it."""
    return chain_file.moved(chain, comfy.model_management.intermediate_device())


def chain_file_digest(name: str) -> str:
    """Of a chain file's content; of one that cannot be read, why not."""
    digest = hashlib.sha256()
    try:
        with open(find_chain(name), "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except (OSError, RivalError) as error:
        return str(error)
    return digest.hexdigest()


def save_chain(chain: Chain, prefix: str, preview: Tensor | None) -> tuple[str, str]:
    """A new file in the output folder: (its name, its subfolder)."""
    check_prefix(prefix)
    root = folder_paths.get_output_directory()
    pixels = pixels_of(latent_format(chain.model.latent_format))
    height, width = (side * pixels for side in chain.size)
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            prefix, root, width, height
        )
    except OSError as error:
        said = advice(error, Path(root, prefix).parent)
        raise RivalError(
            f"filename_prefix is {shown(prefix)}, where no file can be made {said}"
        ) from error
    except Exception as error:  # newer hosts' own refusal, which has no type
        raise outside(prefix) from error
    while True:
        path = Path(folder, f"{name}_{counter:05}_{SUFFIX}")
        if not is_inside(path, root):  # a date in the prefix may have named a link
            raise outside(prefix)
        try:
            if not os.path.lexists(path):
                chain_file.save(chain, path, preview)
                return path.name, subfolder
        except chain_file.Taken:  # by another run, in the meantime
            pass
        counter += 1


def check_prefix(prefix: str) -> None:
    """Raises unless files of this prefix lie in the output folder, under a name of their own."""
    check_name("filename_prefix", prefix, added=len(f"_00001_{SUFFIX}"))
    root = folder_paths.get_output_directory()
    path = Path(root, prefix)
    is_name = os.path.basename(os.path.normpath(prefix)) not in ("", ".", "..")
    on_a_drive = bool(PureWindowsPath(prefix).drive)
    if on_a_drive or not (is_name and is_inside(path, root) and is_inside(path.parent, root)):
        raise outside(prefix)
    if any(unicodedata.category(letter) in UNPRINTABLE for letter in prefix):
        raise RivalError(
            f"filename_prefix is {shown(prefix)}, which has a line break or another character in "
            "it that no name should have: remove it"
        )


def outside(prefix: str) -> RivalError:
    return RivalError(
        f"filename_prefix is {shown(prefix)}, outside the output folder or no name in it: give a "
        "name, or subfolder/name"
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
