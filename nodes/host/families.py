"""The families of models that are served: rows of data, by ComfyUI's class names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from comfy import supported_models

from . import dits
from .unet import UNet


class Port(Protocol):
    """How a family's network attends, and how its self-attention is recorded and lent to.

    reader, recorder: see nodes/steering. A layer is named in the port's own way, the same for the
    photo's calls and for the rows'.
    """

    network: str  # what users call it
    has_positions: bool  # that lent keys can be moved among
    has_words: bool  # that attend to the image in calls of their own, which tell where each is

    def find(self, network: torch.nn.Module) -> str | None: ...

    def layers(self, network: torch.nn.Module) -> tuple: ...

    def lent(self, network: torch.nn.Module, size: Sequence[int]) -> int: ...

    def recording(self, model_options: dict, recorder: Any) -> dict: ...

    def lending(self, model_options: dict, reader: Any, device: torch.device) -> dict: ...

    def riding(
        self, model_options: dict, reader: Any, riders: Sequence, device: torch.device
    ) -> dict: ...

    def taken(self, model_options: dict) -> set[tuple]: ...


class Family(NamedTuple):
    """area: of the latents it was trained at, in latent pixels. called: by users."""

    port: Port
    area: int
    called: str


UNET = UNet()
FAMILIES = {
    "SD15": Family(UNET, 64**2, "SD1.x"),
    "SD20": Family(UNET, 96**2, "SD2"),
    "SD21UnclipL": Family(UNET, 96**2, "SD2"),
    "SD21UnclipH": Family(UNET, 96**2, "SD2"),
    "SDXL": Family(UNET, 128**2, "SDXL"),
    "SDXLRefiner": Family(UNET, 128**2, "SDXL"),
    "SSD1B": Family(UNET, 128**2, "SDXL"),
    "Segmind_Vega": Family(UNET, 128**2, "SDXL"),
    "KOALA_700M": Family(UNET, 128**2, "SDXL"),
    "KOALA_1B": Family(UNET, 128**2, "SDXL"),
    "Flux": Family(dits.FLUX, 128**2, "Flux"),
    "FluxSchnell": Family(dits.FLUX, 128**2, "Flux"),
    "ZImage": Family(dits.LUMINA, 128**2, "Z-Image"),
    "Lumina2": Family(dits.LUMINA, 128**2, "Lumina 2"),
    "QwenImage": Family(dits.QWEN, 128**2, "Qwen-Image"),
    "SD3": Family(dits.SD3, 128**2, "SD3"),
    "Flux2": Family(dits.FLUX, 64**2, "Flux.2"),
    "Chroma": Family(dits.CHROMA, 128**2, "Chroma"),
    "WAN21_T2V": Family(dits.WAN, 128**2, "Wan"),
    "WAN22_T2V": Family(dits.WAN, 64**2, "Wan"),
    "HiDream": Family(dits.HIDREAM, 128**2, "HiDream"),
    "AuraFlow": Family(dits.AURA, 128**2, "AuraFlow"),
    "HunyuanVideo": Family(dits.HUNYUAN, 128**2, "Hunyuan"),
    "HunyuanImage21": Family(dits.HUNYUAN, 64**2, "Hunyuan"),
    "Anima": Family(dits.ANIMA, 128**2, "Anima"),
    "Krea2": Family(dits.KREA2, 128**2, "Krea 2"),
    "Lens": Family(dits.LENS, 64**2, "Lens"),
    "Omnigen2": Family(dits.OMNIGEN2, 128**2, "OmniGen2"),
    "Kandinsky5Image": Family(dits.KANDINSKY5, 128**2, "Kandinsky 5"),
    "LongCatImage": Family(dits.LONGCAT, 128**2, "LongCat-Image"),
    "JoyImage": Family(dits.JOYIMAGE, 128**2, "JoyImage"),
    "MageFlow": Family(dits.MAGE_FLOW, 64**2, "Mage-Flow"),
    "Ideogram4": Family(dits.IDEOGRAM4, 64**2, "Ideogram 4"),
}


def served() -> str:
    """What to load instead, in words: each kind that this ComfyUI has."""
    known = [row.called for name, row in FAMILIES.items() if hasattr(supported_models, name)]
    *others, last = dict.fromkeys(known)
    return f"{', '.join(others)} or {last}"
