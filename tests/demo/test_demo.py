"""`python demo` as a user runs it: the files it leaves, and one sentence where it cannot."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import generated
import pytest
from serving import REPO

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")

DEMO = REPO / "demo"
CAT = DEMO / "photos" / "cat.jpg"
DIFFUSERS = "diffusers"
TRACE = "Traceback"
UNET = ("--model", "unet")  # at three times the cost of the other, which all else takes


def command(*arguments) -> list[str]:
    return [sys.executable, str(DEMO), *map(str, arguments)]


def demo(*arguments, **options) -> subprocess.CompletedProcess:
    asked = {"capture_output": True, "text": True, "timeout": 240, **options}
    return subprocess.run(command(*arguments), **asked)


def refusal(*arguments, **options) -> str:
    """The one sentence of a run that cannot work."""
    result = demo(*arguments, **options)
    assert result.returncode == 1
    assert TRACE not in result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


class Run(NamedTuple):
    """A run of the demo that is over: how it ended, and what it left."""

    returncode: int
    stdout: str
    stderr: str
    output: str  # the folder that it was told to write to
    folder: Path  # and where that is now


def run(folder: Path, *settings, **options) -> Run:
    """The demo, but short."""
    result = demo("--output", folder, "--steps", 5, *settings, **options)
    return Run(result.returncode, result.stdout, result.stderr, str(folder), folder)


@pytest.fixture(scope="module")
def no_comfyui(tmp_path_factory) -> dict:
    """An environment with an empty home, and git pointed away from the network."""
    if (REPO / ".cache" / "ComfyUI").exists() or REPO.parent.name == "custom_nodes":
        pytest.skip("this checkout has a ComfyUI of its own")
    home = str(tmp_path_factory.mktemp("home"))
    return {
        **os.environ, "HOME": home, "USERPROFILE": home, "COMFYUI_PATH": "",
        "GIT_ALLOW_PROTOCOL": "none",
    }  # fmt: skip


@pytest.fixture(scope="module")
def by_diffusers(shared_folder, no_comfyui) -> Run:
    """The scenes where no ComfyUI is found and no engine asked for: one of all workers makes it."""

    def make(partial: Path) -> None:
        partial.mkdir()
        made = run(partial / "pictures", "--variations", 2, env=no_comfyui)
        partial.joinpath("run.json").write_text(json.dumps(made[:4]), encoding="utf-8")

    made = generated.once(shared_folder / "demo-by-diffusers", make)
    return Run(*json.loads((made / "run.json").read_text("utf-8")), made / "pictures")


@pytest.fixture(scope="module")
def by_comfyui(tmp_path_factory, share) -> Run:
    """The scenes on one host. Another one makes the photo's, so that each runs the demo once."""
    if share[0] != 0:
        pytest.skip("the scenes are another host's")
    folder = tmp_path_factory.mktemp("comfyui") / "pictures"
    return run(folder, "--variations", 2, "--engine", "comfyui")


@pytest.fixture(params=[pytest.param("comfyui", marks=pytest.mark.host), DIFFUSERS])
def scenes(request) -> tuple[Run, str]:
    """(the scenes' run, the engine)."""
    return request.getfixturevalue(f"by_{request.param}"), request.param


def array(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=float)


def test_it_ends_well_and_says_what_ran_and_where_the_pictures_are(scenes):
    result, engine = scenes
    assert result.returncode == 0, result.stderr
    first, *_, last = (line for line in result.stdout.splitlines() if line[0] != "[")
    assert ("without ComfyUI" in first) == (engine == DIFFUSERS)
    assert last == f"Wrote contact_sheet.png and 12 more pictures to {result.output}"
    assert "Scene 2: Inverting, 5 steps" in result.stdout  # plain lines: nobody watches


def test_it_leaves_each_scenes_pictures_and_one_sheet(scenes):
    folder = scenes[0].folder
    kinds = ("exemplar", "reconstruction", "variation_1", "variation_2")
    names = {f"scene_{i}_{kind}.png" for i in (1, 2, 3) for kind in kinds}
    assert {path.name for path in folder.iterdir()} == names | {"contact_sheet.png"}
    assert {Image.open(folder / name).size for name in names} == {(128, 128)}


def test_every_variation_has_the_colours_of_its_own_exemplar(scenes):
    """A reconstruction is the exemplar again, a variation is not."""
    folder = scenes[0].folder
    exemplars = [array(folder / f"scene_{i}_exemplar.png") for i in (1, 2, 3)]

    def nearest(pixels) -> int:
        means = [np.abs(pixels.mean((0, 1)) - e.mean((0, 1))).sum() for e in exemplars]
        return 1 + int(np.argmin(means))

    def likeness(a, b) -> float:
        return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])

    for i, exemplar in zip((1, 2, 3), exemplars):
        again = array(folder / f"scene_{i}_reconstruction.png")
        variations = [array(folder / f"scene_{i}_variation_{j}.png") for j in (1, 2)]
        assert [nearest(pixels) for pixels in (again, *variations)] == [i] * 3
        assert likeness(again, exemplar) > max(likeness(v, exemplar) for v in variations) + 0.1
        assert np.abs(variations[0] - variations[1]).mean() > 5


def test_the_contact_sheet_has_a_row_for_each_scene(scenes):
    folder = scenes[0].folder
    sheet = array(folder / "contact_sheet.png")
    places = [place_of(folder / f"scene_{i}_exemplar.png", sheet) for i in (1, 2, 3)]
    assert places == sorted(places) and len({x for _, x in places}) == 1
    for i, (y, x) in zip((1, 2, 3), places):
        shown = [place_of(folder / f"scene_{i}_variation_{j}.png", sheet) for j in (1, 2)]
        assert all(row == y for row, _ in shown)
        assert x < shown[0][1] < shown[1][1]


def place_of(path, sheet) -> tuple[int, int]:
    """(y, x) of the sheet's cell that shows this picture, doubled."""
    doubled = Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.LANCZOS)
    wanted = np.asarray(doubled, dtype=float)
    height, width = (size - 255 for size in sheet.shape[:2])
    probes = [(0, 0), (128, 128), (30, 220), (220, 30), (255, 255)]
    matches = [(sheet[y : y + height, x : x + width] == wanted[y, x]).all(-1) for y, x in probes]
    found = [
        (int(y), int(x))
        for y, x in np.argwhere(np.logical_and.reduce(matches))
        if np.array_equal(sheet[y : y + 256, x : x + 256], wanted)
    ]
    assert len(found) == 1, f"{path.name} is on the sheet {len(found)} times"
    return found[0]


@pytest.mark.host
def test_both_engines_make_the_same_pictures(by_comfyui, by_diffusers):
    """To a step in 255, where engines round differently."""
    one, other = by_comfyui.folder, by_diffusers.folder
    names = {path.name for path in one.iterdir()}
    assert names == {path.name for path in other.iterdir()} > {"contact_sheet.png"}
    for name in names - {"contact_sheet.png"}:
        assert np.abs(array(one / name) - array(other / name)).max() <= 2, name


@pytest.mark.parametrize("counts", [[1], [2, 2], [4], [5, 5], [9], [12, 12, 12]])
def test_sheets_of_any_number_of_variations(counts):
    spec = importlib.util.spec_from_file_location("demo_contact_sheet", DEMO / "contact_sheet.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    red, blue = (Image.new("RGB", (100, 60), color) for color in ("red", "blue"))
    rows = [module.Row("A title " * 90, red, red, [blue] * count) for count in counts]
    text = module.Text("A title", "details " * 90, "a notice " * 90)
    sheet = module.contact_sheet(rows, text)
    colors = {color: n for n, color in sheet.getcolors(sheet.width * sheet.height)}
    width, height = module.cell_size(red.size)
    assert colors[(255, 0, 0)] == 2 * len(rows) * width * height
    assert colors[(0, 0, 255)] == sum(counts) * width * height


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
        (["--engine", "magic"], "invalid choice: 'magic'"),
        (["--engine", DIFFUSERS, "--comfyui", str(DEMO)], "leave out one of the two"),
        (["--engine", DIFFUSERS, "--checkpoint", str(CAT)], "--checkpoint needs a ComfyUI"),
        (["--model", "flow", "--checkpoint", str(CAT)], "leave out it or --checkpoint"),
        (["--engine", DIFFUSERS, "--image", str(DEMO / "options.py")], "cannot be read as a pic"),
        (["--engine", DIFFUSERS, "--prompt", "Two foxes"], "does not know the word 'foxes'"),
    ],
)
def test_what_cannot_work_is_one_sentence(arguments, sentence):
    assert sentence in refusal(*arguments)


@pytest.mark.host
def test_comfyui_varies_a_photo(tmp_path, share):
    if share[0] != share[1] - 1:
        pytest.skip("the photo is another host's")
    asked = ("--image", CAT, "--prompt", "one white star", "--variations", 1, "--seed", 3)
    result = run(tmp_path / "pictures", *asked, "--engine", "comfyui", *UNET)
    assert result.returncode == 0, result.stderr
    assert "only ever seen drawn scenes" in " ".join(result.stdout.split())
    names = ["reconstruction.png", "variation_1.png"]
    assert {path.name for path in result.folder.iterdir()} == {"contact_sheet.png", *names}
    for name in names:
        height, width, _ = array(result.folder / name).shape
        assert 1.3 < width / height < 1.7 and 120 < (width * height) ** 0.5 < 136


def test_what_needs_a_comfyui_says_so(no_comfyui):
    sentence = refusal("--engine", "comfyui", env=no_comfyui)
    assert sentence.endswith("give its folder with --comfyui")
    sentence = refusal("--checkpoint", CAT, env=no_comfyui)
    assert "--checkpoint needs a ComfyUI and there is none" in sentence


@pytest.mark.any_host
def test_a_checkpoint_that_comfyui_cannot_load(host, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a checkpoint, only text" * 9)
    sentence = refusal("--comfyui", host.path, "--output", tmp_path, "--checkpoint", broken)
    assert f"ComfyUI cannot load the checkpoint {broken}: " in sentence


def listen_to_ctrl_c():
    """Tests that run in a shell's background inherit that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.any_host
@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_stops_it_and_its_server(host, tmp_path):
    arguments = command("--comfyui", host.path, "--output", tmp_path / "out")
    settings = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings,
        preexec_fn=listen_to_ctrl_c,
    )  # fmt: skip
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
