"""`python demo` as a user runs it: the files it leaves, and one sentence where it cannot."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import struct
import subprocess
import sys

import pytest
from serving import REPO

DEMO = REPO / "demo"
TRACE = "Traceback"


def command(*arguments) -> list[str]:
    return [sys.executable, str(DEMO), *map(str, arguments)]


def demo(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=240)


def refusal(*arguments) -> str:
    """The one sentence of a run that cannot work."""
    result = demo(*arguments)
    assert result.returncode == 1
    assert TRACE not in result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture(scope="module")
def finished(host, tmp_path_factory):
    """One small run: (the process, its output folder)."""
    pytest.importorskip("PIL")
    folder = tmp_path_factory.mktemp("demo")
    photo = DEMO / "photos" / "cat.jpg"
    settings = ("--steps", 5, "--variations", 3, "--seed", 3, "--image", photo)
    return demo("--comfyui", host.path, "--output", folder, *settings), folder


@pytest.mark.host
def test_it_ends_well_and_says_where_the_pictures_are(finished):
    result, folder = finished
    assert result.returncode == 0, result.stderr
    assert str(folder) in result.stdout.splitlines()[-1]
    assert "real checkpoint" in result.stdout.replace("\n", " ")
    assert "Inverting the photo, 5 steps" in result.stdout  # plain lines: nobody watches


@pytest.mark.host
def test_it_leaves_variations_reconstruction_and_sheet(finished):
    from PIL import Image

    _, folder = finished
    variations = {f"variation_{i}.png" for i in (1, 2, 3)}
    assert {p.name for p in folder.iterdir()} == {"contact_sheet.png", "reconstruction.png"} | (
        variations
    )
    sizes = {Image.open(folder / name).size for name in {"reconstruction.png"} | variations}
    assert len(sizes) == 1
    width, height = sizes.pop()
    assert 180 < (width * height) ** 0.5 < 200 and 1.3 < width / height < 1.7


@pytest.mark.host
def test_the_reconstruction_is_the_photo_and_the_variations_are_not(finished):
    import numpy as np
    from PIL import Image

    _, folder = finished

    def thumbnail(path):
        small = Image.open(path).convert("RGB").resize((24, 16), Image.Resampling.BOX)
        return np.asarray(small, dtype=float).ravel()

    photo = thumbnail(DEMO / "photos" / "cat.jpg")
    likeness = {
        name: np.corrcoef(photo, thumbnail(folder / f"{name}.png"))[0, 1]
        for name in ("reconstruction", "variation_1", "variation_2")
    }
    assert likeness["reconstruction"] > 0.9
    assert likeness["variation_1"] < 0.6 and likeness["variation_2"] < 0.6


@pytest.mark.host
def test_the_contact_sheet_shows_them_all(finished):
    import numpy as np
    from PIL import Image

    _, folder = finished
    sheet = np.asarray(Image.open(folder / "contact_sheet.png").convert("RGB"), dtype=float)
    assert sheet.shape[1] > 3 * 256 and sheet.shape[0] > 2 * 150
    left, right = np.array_split(sheet[-350:, :, :], 2, axis=1)
    assert left.std() > 30 and right.std() > 30


@pytest.mark.host
@pytest.mark.parametrize("count", [1, 2, 4, 5, 9, 12])
def test_sheets_of_any_number_of_variations(count):
    pytest.importorskip("PIL")
    from PIL import Image

    spec = importlib.util.spec_from_file_location("demo_contact_sheet", DEMO / "contact_sheet.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    columns, rows = module.grid(count)
    assert rows >= 2 and (columns - 1) * rows < count <= columns * rows
    red, blue = (Image.new("RGB", (100, 60), color) for color in ("red", "blue"))
    text = module.Text("A title", "details " * 30, "a notice " * 30)
    sheet = module.contact_sheet(red, red, [blue] * count, text)
    colors = {color: n for n, color in sheet.getcolors(sheet.width * sheet.height)}
    width, height = module.cell_size(red.size)
    assert colors[(255, 0, 0)] == 2 * width * height
    assert colors[(0, 0, 255)] == count * width * height


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--image", "no-such.png"], "no image file no-such.png"),
        (["--checkpoint", "no-such.safetensors"], "no checkpoint file no-such.safetensors"),
        (["--variations", "0"], "--variations is 0: give 1 to 64"),
        (["--steps", "2"], "--steps is 2: give 5 to 400"),
        (["--seed", "-1"], "--seed is -1"),
        (["--variations", "many"], "invalid int value: 'many'"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
        (["--comfyui", str(DEMO)], "there is no ComfyUI in"),
    ],
)
def test_what_cannot_work_is_one_sentence(arguments, sentence):
    assert sentence in refusal(*arguments)


def test_without_any_comfyui_it_says_so(tmp_path):
    """An empty home, and git pointed away from the network."""
    unreachable = {
        "HOME": str(tmp_path),
        "USERPROFILE": str(tmp_path),
        "COMFYUI_PATH": "",
        "GIT_ALLOW_PROTOCOL": "none",
    }
    if (REPO / ".cache" / "ComfyUI").exists() or REPO.parent.name == "custom_nodes":
        pytest.skip("this checkout has a ComfyUI of its own")
    result = subprocess.run(
        command(), capture_output=True, text=True, timeout=60, env={**os.environ, **unreachable}
    )
    assert result.returncode == 1 and TRACE not in result.stderr
    assert "there is no ComfyUI: give its folder with --comfyui" in result.stderr


@pytest.mark.host
def test_a_file_that_is_no_picture(host):
    source = DEMO / "photos" / "SOURCES.md"
    sentence = refusal("--comfyui", host.path, "--image", source)
    assert "SOURCES.md cannot be read as a picture" in sentence


@pytest.mark.host
def test_a_checkpoint_that_comfyui_cannot_load(host, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a checkpoint, only text" * 9)
    sentence = refusal("--comfyui", host.path, "--output", tmp_path, "--checkpoint", broken)
    assert f"ComfyUI cannot load the checkpoint {broken}: " in sentence


@pytest.mark.host
@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_stops_it_and_its_server(host, tmp_path):
    arguments = command("--comfyui", host.path, "--output", tmp_path / "out")
    settings = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings
    )
    assert any("Inverting" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "python demo: stopped"
    assert not list(tmp_path.glob("rival-demo-*"))  # the server's folder went with it


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "True"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "False"),
    ],
)
def test_sdxl_is_told_by_its_text_encoders(tmp_path, name, expected):
    header = json.dumps({name: {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    code = "import sys, pathlib, options; print(options.is_sdxl(pathlib.Path(sys.argv[1])))"
    run = subprocess.run(
        [sys.executable, "-c", code, str(file)], cwd=DEMO, capture_output=True, text=True
    )
    assert run.stdout.strip() == expected
