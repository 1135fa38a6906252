"""One run of the demo: exemplars through an engine, and the files that this leaves."""

from __future__ import annotations

import textwrap
from io import BytesIO
from pathlib import Path

import contact_sheet
import exemplars
from options import Options
from pictures import Pictures
from PIL import Image

NOTICE = (
    "No checkpoint was given, so this is a small model of the demo's own. It has only ever seen "
    "drawn scenes of a few shapes: of other pictures it keeps colours at best. Real photos need a "
    "real checkpoint: python demo --image FILE --checkpoint FILE"
)


def run(options: Options, engine) -> None:
    chosen = exemplars.read(options)
    options.output.mkdir(parents=True, exist_ok=True)
    print(f"Variations of {', '.join(e.name for e in chosen)} with {engine}", flush=True)
    if notice := notice_for(options):
        print(textwrap.fill(notice, 90))
    made = engine.run(options, chosen)
    text = contact_sheet.Text("RIVAL variations", details(options, engine), notice_for(options))
    sheet = contact_sheet.contact_sheet([row(e, p) for e, p in zip(chosen, made)], text)
    names = save(chosen, made, sheet, options.output)
    print(f"Wrote {names[0]} and {len(names) - 1} more pictures to {options.output}")


def notice_for(options: Options) -> str:
    return NOTICE if options.image is not None and options.checkpoint is None else ""


def details(options: Options, engine) -> str:
    own = f"the demo's own model ({options.model})"
    model = own if options.checkpoint is None else options.checkpoint.name
    return f"{model}, {options.steps} steps, seed {options.seed}, {engine}"


def row(exemplar: exemplars.Exemplar, made: Pictures) -> contact_sheet.Row:
    prompt = f"prompt: {exemplar.prompt}" if exemplar.prompt else "no prompt"
    variations = [*map(to_image, made.variations)]
    title = f"{exemplar.name}, {prompt}"
    return contact_sheet.Row(title, exemplar.picture, to_image(made.reconstruction), variations)


def to_image(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data)).convert("RGB")


def save(chosen: list, made: list[Pictures], sheet: Image.Image, folder: Path) -> list[str]:
    """Write all pictures as PNG; returns their names."""
    sheet.save(folder / "contact_sheet.png")
    names = ["contact_sheet.png"]
    for exemplar, pictures in zip(chosen, made):
        if exemplar.prefix:
            names.append(f"{exemplar.prefix}exemplar.png")
            exemplar.picture.save(folder / names[-1])
        for name, data in pictures.files(exemplar.prefix).items():
            (folder / name).write_bytes(data)  # ComfyUI's have their workflow inside
            names.append(name)
    return names
