"""Runs a ComfyUI, without its browser frontend by default, and drives it over HTTP.

    with running(host, python, base_dir) as client:
        outcome = client.run(prompt)
        picture = client.view(outcome.images("9")[0])

Everything the server reads or writes lies under `base_dir`. The interpreter that imports this
module needs aiohttp, which every ComfyUI environment has.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

REPO = Path(__file__).resolve().parent.parent
NOT_COPIED = (".venv", ".cache", ".git", "__pycache__", "output")


class StartError(RuntimeError):
    """The server did not come up; the message ends with the last lines of its log."""


class ExecutionError(RuntimeError):
    """A prompt was refused or failed; the message is the node's own. `details`: all of it."""

    def __init__(self, message: str, details: dict):
        super().__init__(message)
        self.details = details


class Interrupted(ExecutionError):
    """The prompt was interrupted."""


@dataclass
class Outcome:
    """What a finished prompt left and what was seen of it on the way."""

    outputs: dict = field(default_factory=dict)  # by node id, as in the server's history
    started: list[str] = field(default_factory=list)  # node ids in the order they ran
    progress: list[tuple[str, int, int]] = field(default_factory=list)  # (node id, value, max)
    previews: int = 0  # preview pictures received

    def images(self, node_id: str) -> list[dict]:
        return self.outputs.get(node_id, {}).get("images", [])

    def text(self, node_id: str) -> str:
        return "\n".join(map(str, self.outputs.get(node_id, {}).get("text", [])))


@contextlib.contextmanager
def running(host, python: Path, base_dir: Path, extra_args: Sequence[str] = (),
            pack_name: str = "ComfyUI-RIVAL", timeout: float = 180,
            frontend: Path | None = None) -> Iterator[Client]:
    """A server of this host with the pack installed under `pack_name`; stopped on leaving.

    frontend: the folder of the pages that browsers get; without it there are none.
    """
    base_dir = Path(base_dir).resolve()
    prepare(base_dir, pack_name)
    port = _free_port()
    command = [str(python), str(host.path / "main.py"), "--listen", "127.0.0.1",
               "--port", str(port), "--base-directory", str(base_dir),
               "--user-directory", str(base_dir / "user"),
               "--database-url", "sqlite:///:memory:", "--disable-api-nodes",
               "--front-end-root", str(frontend or base_dir / "no-frontend"),
               "--preview-method", "latent2rgb", *extra_args]
    if "--cpu" not in extra_args and not _sees_gpu(python):
        command.append("--cpu")
    log = base_dir / "comfyui.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=base_dir, stdout=stream, stderr=stream,
                                   start_new_session=True)
    client = Client(f"127.0.0.1:{port}", process.pid)
    try:
        _wait_until_up(client, process, log, timeout)
        client.listen()
        yield client
    except OSError as error:
        if process.poll() is None:
            raise
        raise StartError(_ended(log)) from error
    finally:
        _stop(process)


def prepare(base_dir: Path, pack_name: str) -> None:
    """The folders that a server expects, with a link to (or a copy of) the pack."""
    for folder in ("custom_nodes", "models/checkpoints", "input", "output", "temp", "user",
                   "no-frontend"):
        (base_dir / folder).mkdir(parents=True, exist_ok=True)
    pack = base_dir / "custom_nodes" / pack_name
    if pack.exists():
        return
    try:
        pack.symlink_to(REPO, target_is_directory=True)
    except OSError:  # Windows without the right to make links
        shutil.copytree(REPO, pack, ignore=shutil.ignore_patterns(*NOT_COPIED))


class Client:
    """One websocket session with a server; prompts are run one after the other."""

    def __init__(self, address: str, pid: int | None = None):
        self.address, self.pid = address, pid  # the server's
        self.client_id = uuid.uuid4().hex
        self._events: queue.Queue = queue.Queue()

    def run(self, prompt: dict, on_progress: Callable | None = None,
            timeout: float = 3600) -> Outcome:
        return self.wait(self.queue(prompt), on_progress, timeout)

    def queue(self, prompt: dict) -> str:
        """Hand in a workflow in API format; returns the prompt's id."""
        try:
            return self._post("/prompt", {"prompt": prompt, "client_id": self.client_id})[
                "prompt_id"]
        except urllib.error.HTTPError as error:
            details = json.loads(error.read())
            raise ExecutionError(_refusal(details), details) from None

    def wait(self, prompt_id: str, on_progress: Callable | None = None,
             timeout: float = 3600) -> Outcome:
        """Until the prompt is done. `on_progress(node_id, value, maximum)` gets 0, 0 at a start."""
        outcome, deadline = Outcome(), time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                event = self._events.get(timeout=5)
            except queue.Empty:
                if prompt_id in self.history(prompt_id):  # its events were missed
                    break
                continue
            if isinstance(event, bytes):
                outcome.previews += event[:4] in (b"\0\0\0\1", b"\0\0\0\4")
            elif _is_last(event, prompt_id, outcome, on_progress):
                break
        else:
            raise TimeoutError(f"prompt {prompt_id} was not done after {timeout:.0f} s")
        outcome.outputs = self.history(prompt_id)[prompt_id]["outputs"]
        return outcome

    def history(self, prompt_id: str) -> dict:
        return self.get_json(f"/history/{prompt_id}")

    def object_info(self, node: str = "") -> dict:
        return self.get_json(f"/object_info/{node}" if node else "/object_info")

    def get_json(self, path: str) -> dict:
        """What the server answers to a GET of this path."""
        return json.loads(self.get(path))

    def view(self, image: dict) -> bytes:
        """The file behind one entry of a node's `images`."""
        return self.get("/view?" + urllib.parse.urlencode(image))

    def interrupt(self) -> None:
        self._post("/interrupt", {})

    def upload_image(self, path: Path) -> str:
        """Put a picture into the server's input folder; returns the name for LoadImage."""
        boundary = uuid.uuid4().hex
        head = (f'--{boundary}\r\nContent-Disposition: form-data; name="image"; '
                f'filename="{path.name}"\r\nContent-Type: application/octet-stream\r\n\r\n')
        overwrite = (f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="overwrite"'
                     f'\r\n\r\ntrue\r\n--{boundary}--\r\n')
        body = head.encode() + path.read_bytes() + overwrite.encode()
        kind = f"multipart/form-data; boundary={boundary}"
        return json.loads(self.get("/upload/image", body, kind))["name"]

    def listen(self) -> None:
        """Collect the server's events in a thread; returns once the connection stands."""
        connected = threading.Event()
        threading.Thread(target=asyncio.run, args=(self._collect(connected),), daemon=True).start()
        if not connected.wait(30):
            raise StartError(f"no websocket connection to {self.address}")

    async def _collect(self, connected: threading.Event) -> None:
        """Ends when the server closes the connection."""
        url = f"ws://{self.address}/ws?clientId={self.client_id}"
        async with aiohttp.ClientSession() as session, session.ws_connect(
                url, max_msg_size=0) as websocket:
            connected.set()
            async for message in websocket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    self._events.put(json.loads(message.data))
                elif message.type == aiohttp.WSMsgType.BINARY:
                    self._events.put(message.data)

    def get(self, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        request = urllib.request.Request(f"http://{self.address}{path}", body,
                                         {"Content-Type": kind} if body is not None else {})
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()

    def _post(self, path: str, data: dict) -> dict:
        return json.loads(self.get(path, json.dumps(data).encode()) or b"{}")


def _is_last(event: dict, prompt_id: str, outcome: Outcome, on_progress: Callable | None) -> bool:
    """Take one event in; true when it was the prompt's last."""
    kind, data = event["type"], event["data"]
    if data.get("prompt_id") != prompt_id:
        return False
    if kind == "execution_error":
        message = f"{data['node_type']} (node {data['node_id']}): {data['exception_message']}"
        raise ExecutionError(message.strip(), data)
    if kind == "execution_interrupted":
        raise Interrupted(f"interrupted at {data.get('node_type')}", data)
    if kind == "executing" and data["node"] is None:
        return True
    if kind == "executing":
        outcome.started.append(data["node"])
        report = (data["node"], 0, 0)
    elif kind == "progress":
        report = (data["node"], data["value"], data["max"])
        outcome.progress.append(report)
    else:
        return False
    if on_progress is not None:
        on_progress(*report)
    return False


def _refusal(details: dict) -> str:
    """The server's reasons for not running a prompt, in one line."""
    reasons = [f"{node['class_type']}: {error['message']} {error['details']}".strip()
               for node in (details.get("node_errors") or {}).values()
               for error in node["errors"]]
    return "; ".join(reasons) or details["error"]["message"]


def _sees_gpu(python: Path) -> bool:
    check = ("import sys, torch; "
             "sys.exit(not (torch.cuda.is_available() or torch.backends.mps.is_available()))")
    return subprocess.run([str(python), "-c", check], capture_output=True).returncode == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_up(client: Client, process: subprocess.Popen, log: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client.object_info("KSampler")
            return
        except OSError:
            time.sleep(0.1)
    late = f"was not up after {timeout:.0f} s"
    raise StartError(_ended(log, late if process.poll() is None else "ended"))


def _ended(log: Path, state: str = "ended") -> str:
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]
    return "\n".join([f"ComfyUI {state}; its log ends with:", *tail])


def _stop(process: subprocess.Popen) -> None:
    """The server and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait(30)
