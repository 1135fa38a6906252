"""Chain files over HTTP, as any client meets them."""

from __future__ import annotations

import prompts
import pytest
from prompts import saving
from serving import listed_chains as listed
from serving import pictures

pytestmark = pytest.mark.host


def from_file(name: str, seed: int) -> dict:
    """A variation whose chain comes out of a file."""
    prompt = prompts.variation(seed=seed)
    load = prompts.node("RivalLoadChain", chain_file=name)
    for node in ("patch", "sample"):
        prompt[node]["inputs"]["chain"] = ["load", 0]
    return {key: value for key, value in prompt.items() if key != "invert"} | {"load": load}


def test_a_chain_travels_through_a_server(server, tmp_path):
    """Saved, listed, loaded; then copied, uploaded and loaded as another machine's."""
    outcome = server.run(saving("http/chain"))
    (saved,) = outcome.outputs["save"]["chains"]
    name = f"http/{saved['filename']} [output]"
    assert "saved as http/chain_00001_" in outcome.text("save")
    assert name in listed(server)

    wanted = pictures(server, server.run(prompts.variation(seed=81)))
    loaded = server.run(from_file(name, seed=81))
    assert "invert" not in loaded.started and {"load", "sample"} <= set(loaded.started)
    assert (pictures(server, loaded) == wanted).all()
    assert "SD15" in loaded.text("load") and "6 steps" in loaded.text("load")
    assert pictures(server, loaded, "load").shape == (1, prompts.HEIGHT, prompts.WIDTH, 3)
    assert "load" not in server.run(from_file(name, seed=82)).started

    (tmp_path / "sent.safetensors").write_bytes(server.view(saved))
    sent = server.upload_image(tmp_path / "sent.safetensors")
    assert sent == "sent.safetensors" and sent in listed(server)
    uploaded = server.run(from_file(sent, seed=81))
    assert (pictures(server, uploaded) == wanted).all()


def test_a_server_refuses_paths_before_it_runs(server, tmp_path):
    import comfy_process

    for prefix in ("../x", str(tmp_path / "x")):
        with pytest.raises(comfy_process.ExecutionError, match=r"RivalSaveChain.*outside"):
            server.queue(saving(prefix))
    for name in ("../input/x", str(tmp_path / "x"), "missing.safetensors"):
        with pytest.raises(comfy_process.ExecutionError, match=r"RivalLoadChain.*(outside|not t)"):
            server.queue(from_file(name, seed=1))


def test_a_server_tells_of_a_damaged_file(server, tmp_path):
    import comfy_process

    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\xff" * 100)
    name = server.upload_image(bad)
    assert name not in listed(server)
    with pytest.raises(comfy_process.ExecutionError, match=r"RIVAL Load Chain: 'bad.* cut short"):
        server.run(from_file(name, seed=1))
