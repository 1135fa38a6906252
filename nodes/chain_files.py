"""RIVAL Save Chain and RIVAL Load Chain: a chain as a file."""

from __future__ import annotations

import logging

from comfy_api.latest import io, ui

from ..rival_core.chain.chain import Chain
from ..rival_core.chain.report import summary
from . import host
from .foreign import foreign_chain
from .schema import RivalChain, named, output, schema
from .start import chain_input
from .values import refusal

SAVE, LOAD = "RIVAL Save Chain", "RIVAL Load Chain"


def described(chain: Chain) -> str:
    """One line: the model it needs, its size, how it was made."""
    height, width = chain.size
    return (
        f"{chain.model.family}, latent {width} x {height}, schedule {chain.schedule}, solver "
        f"{chain.solver.name}: {summary(chain)}"
    )


class RivalSaveChain(io.ComfyNode):
    """A chain into the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["save inversion", "export chain", "store chain"],
            node_id="RivalSaveChain",
            display_name=SAVE,
            description=(
                "Saves a chain as a safetensors file in the output folder, with all it takes to "
                "sample from it later or on another machine, and a small picture of the photo. "
                "Not for chains inverted with LoRA hooks. No model calls."
            ),
            inputs=[
                chain_input(),
                io.String.Input(
                    "filename_prefix",
                    default="rival/chain",
                    tooltip="The file's name, or subfolder/name; a number follows. %year%, "
                    "%month%, %day%, %hour%, %minute%, %second%, %width% and %height% are filled "
                    "in.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes the file's small picture. Without it the picture has "
                    "approximate colours.",
                ),
            ],
            outputs=[RivalChain.Output(display_name="chain", tooltip="The same chain.")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=None) -> bool | str:
        return filename_prefix is None or refusal(SAVE, host.check_prefix, filename_prefix)

    @classmethod
    def execute(cls, chain, filename_prefix, vae=None) -> io.NodeOutput:
        with named(SAVE):
            preview = host.chain_preview(chain, vae)
            name, subfolder = host.save_chain(chain, filename_prefix, preview)
        file = f"{subfolder}/{name}" if subfolder else name
        saved = ui.SavedResult(name, subfolder, io.FolderType.output)
        return output(chain, text=[f"saved as {file}"], chains=[saved])


class RivalLoadChain(io.ComfyNode):
    """A chain out of the input or output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["load inversion", "import chain", "open chain"],
            node_id="RivalLoadChain",
            display_name=LOAD,
            description=(
                "Loads a chain that RIVAL Save Chain saved, here or on another machine: sampling "
                "from it is the same, bit for bit, and takes no inversion. The model must be the "
                "one it was inverted with. No model calls."
            ),
            inputs=[
                io.Combo.Input(
                    "chain_file",
                    options=host.chain_names() or [host.NONE_YET],  # else it shows "undefined"
                    tooltip="Chains in the input folder and its subfolders, and those saved in "
                    "the output folder. Press R after adding one.",
                )
            ],
            outputs=[
                RivalChain.Output(
                    display_name="chain", tooltip="The chain, as RIVAL Invert made it."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, chain_file=None) -> bool | str:
        return chain_file is None or refusal(LOAD, host.find_chain, chain_file)

    @classmethod
    def fingerprint_inputs(cls, chain_file=None) -> str:
        return "" if chain_file is None else host.chain_file_digest(chain_file)

    @classmethod
    def execute(cls, chain_file) -> io.NodeOutput:
        with named(LOAD):
            chain, preview = host.load_chain(chain_file)
            foreign_chain(chain)
        chain = host.to_intermediate_device(chain)
        text = described(chain)
        logging.info("%s: %s", LOAD, text)
        pictures = []  # told even if there is none: the host joins a list's runs by their keys
        if preview is not None:
            pictures = ui.PreviewImage(preview[None] / 255, cls=cls).as_dict()["images"]
        return output(chain, text=[text], images=pictures)
