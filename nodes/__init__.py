"""What a graph sees: schemas, tooltips and argument marshalling. No tensor maths here."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .chain_files import RivalLoadChain, RivalSaveChain
from .chain_report import RivalChainReport
from .choose import RivalChoose
from .edit import RivalEdit
from .guidance import RivalBlendedGuidance
from .invert import RivalInvert
from .noise import RivalNoise, RivalSigmas
from .patch import RivalPatchModel
from .pull import RivalPull
from .reconstruct import RivalReconstruct
from .sample import RivalKSampler

NODES = [
    RivalInvert,
    RivalPatchModel,
    RivalKSampler,
    RivalReconstruct,
    RivalChainReport,
    RivalBlendedGuidance,
    RivalNoise,
    RivalSigmas,
    RivalSaveChain,
    RivalLoadChain,
    RivalPull,
    RivalEdit,
    RivalChoose,
]


class RivalExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
