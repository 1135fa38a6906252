"""RIVAL for ComfyUI: variations of a real photo with the checkpoint you already have."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import RivalExtension

    return RivalExtension()
