"""What a text loader's `type` makes: text as one of tiny_dits.FAMILIES reads it."""

FAMILIES = {
    "flux": "flux", "flux2": "flux2", "lumina2": "zimage", "qwen_image": "qwen", "wan": "wan",
    "sd3": "sd35m",
}  # fmt: skip
