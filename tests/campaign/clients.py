"""Two clients of one real server at once, who delete, interrupt and clear under each other."""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy_process
import prompts
import psutil
import serving

from .executing import is_sentence

SEEDS, STEPS = 4, 5
GROWTH = 1.05  # of the server's memory from the second quarter of its runs to the last
JUDGED_FROM = 80  # runs; before that the allocator has not settled
PATIENCE = 300  # seconds for one run


class World:
    """The server's folder, and what all clients have seen."""

    def __init__(self, folder: Path, pid: int):
        self.folder, self.process = folder, psutil.Process(pid)
        self.lock = threading.Lock()
        self.files: list[str] = []  # saved chains, relative to the output folder
        self.pictures: dict[str, bytes] = {}  # what each graph gave first
        self.outcomes: Counter = Counter()
        self.faults: list[str] = []
        self.memory: list[int] = []

    def count(self, outcome: str) -> None:
        with self.lock:
            self.outcomes[outcome] += 1
            self.memory.append(self.process.memory_info().rss)

    def compare(self, name: str, picture: bytes) -> None:
        with self.lock:
            if self.pictures.setdefault(name, picture) != picture:
                self.faults.append(f"{name} gave another picture than before")


class Actor:
    """One client, who does one thing after the other."""

    def __init__(self, world: World, client: comfy_process.Client, rng: random.Random):
        self.world, self.client, self.rng = world, client, rng

    def act(self, count: int) -> None:
        for _ in range(count):
            (name,) = self.rng.choices(list(ACTIONS), [n for n, _ in ACTIONS.values()])
            try:
                ended = ACTIONS[name][1](self)
            except comfy_process.Interrupted:
                ended = "interrupted"
            except comfy_process.ExecutionError as error:
                ended = self.judged(name, error)
            except Exception as error:
                ended = "failed"
                self.fault(f"{name}: {type(error).__name__}: {error}")
            self.world.count(f"{name}: {ended}")

    def judged(self, name: str, error: comfy_process.ExecutionError) -> str:
        """Only a chain that somebody deleted may be refused, and only in a sentence."""
        if "is not there" in str(error) and sentence_in(error):
            return "refused, the file is gone"
        self.fault(f"{name}: {error}")
        return "failed"

    def fault(self, text: str) -> None:
        with self.world.lock:
            self.world.faults.append(text)

    def finished(self, prompt: dict) -> comfy_process.Outcome | None:
        """The outcome; None where somebody cleared the history first."""
        prompt_id = self.client.queue(prompt)
        try:
            return self.client.wait(prompt_id, timeout=PATIENCE)
        except KeyError:
            return None

    def picture(self, name: str, prompt: dict) -> str:
        outcome = self.finished(prompt)
        if outcome is None:
            return "history cleared"
        self.world.compare(name, serving.pictures(self.client, outcome).tobytes())
        return "ran"

    def vary(self) -> str:
        seed = self.rng.randrange(SEEDS)
        return self.picture(f"variation {seed}", prompts.variation(STEPS, seed))

    def plain(self) -> str:
        return self.picture("plain", prompts.core_sampler("checkpoint", STEPS))

    def custom(self) -> str:
        return self.picture("custom", prompts.custom_sampler(STEPS))

    def save(self) -> str:
        graph = prompts.exemplar(STEPS)
        inputs = {"chain": ["invert", 0], "filename_prefix": "campaign/chain"}
        outcome = self.finished({**graph, "save": prompts.node("RivalSaveChain", **inputs)})
        if outcome is None:
            return "history cleared"
        with self.world.lock:
            self.world.files += [f"{saved['subfolder']}/{saved['filename']}"
                                 for saved in outcome.outputs.get("save", {}).get("chains", [])]
        return "ran"

    def load(self) -> str:
        if not self.world.files:
            return self.save()
        seed, graph = self.rng.randrange(SEEDS), prompts.variation(STEPS)
        del graph["invert"]
        file = f"{self.rng.choice(self.world.files)} [output]"
        graph["load"] = prompts.node("RivalLoadChain", chain_file=file)
        graph["patch"]["inputs"]["chain"] = ["load", 0]
        graph["sample"]["inputs"] |= {"chain": ["load", 0], "seed": seed}
        return self.picture(f"variation {seed}", graph)

    def delete_file(self) -> str:
        with self.world.lock:
            if not self.world.files:
                return "no file"
            file = self.rng.choice(self.world.files)
            if len(self.world.files) > 1 and self.rng.random() < 0.5:
                self.world.files.remove(file)  # else it is asked for again, and missing
        (self.world.folder / "output" / file).unlink(missing_ok=True)
        return "done"

    def delete_queued(self) -> str:
        prompt_id = self.client.queue(prompts.variation(STEPS, self.rng.randrange(SEEDS)))
        self.post("/queue", {"delete": [prompt_id]})
        return self.gone(prompt_id)

    def interrupt(self) -> str:
        """Whatever runs then, be it the other client's."""
        prompt_id = self.client.queue(prompts.variation(STEPS, self.rng.randrange(10**9)))
        time.sleep(self.rng.random())
        self.client.interrupt()
        return self.gone(prompt_id)

    def clear_history(self) -> str:
        self.post("/history", {"clear": True})
        return "done"

    def post(self, path: str, data: dict) -> None:
        self.client.get(path, json.dumps(data).encode())

    def gone(self, prompt_id: str) -> str:
        """Once the server has neither to run it nor runs it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            queue = self.client.get_json("/queue")
            if all(prompt_id != item[1] for items in queue.values() for item in items):
                return "gone"
            time.sleep(0.1)
        raise TimeoutError(f"{prompt_id} is still in the queue")


ACTIONS: dict[str, tuple[int, Callable]] = {  # how often, and what
    "variation": (5, Actor.vary), "plain sampling": (2, Actor.plain),
    "custom sampling": (2, Actor.custom), "save": (2, Actor.save), "load": (4, Actor.load),
    "delete a file": (2, Actor.delete_file), "delete from the queue": (2, Actor.delete_queued),
    "interrupt": (2, Actor.interrupt), "clear the history": (1, Actor.clear_history),
}


def sentence_in(error: comfy_process.ExecutionError) -> bool:
    """Whether what the server says is a sentence of the pack, whichever way it came."""
    said = str(error).partition(" - ")[2] or str(error).partition("): ")[2]
    return is_sentence(said.strip())


def run(count: int, seed: int, server: comfy_process.Client | None = None,
        folder: Path | None = None) -> dict:
    """count: of all that two clients do. server: a running one, and its folder."""
    if server is None:
        with own_server() as (server, folder):
            return run(count, seed, server, folder)
    world, actors = World(folder, server.pid), []
    for number in range(2):
        client = comfy_process.Client(server.address)
        client.listen()
        actors.append(Actor(world, client, random.Random(f"{seed} {number}")))
    threads = [threading.Thread(target=actor.act, args=(-(-count // 2),)) for actor in actors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outcomes = dict(sorted(world.outcomes.items())) | quarters(world)
    replay = f"python tests/campaign clients --count {count} --seed {seed}"
    return {**outcomes, "faults": [f"{fault}\n    {replay}" for fault in world.faults]}


def quarters(world: World) -> dict[str, int]:
    """The server's memory in MB, medians of the runs' quarters; growth is a fault."""
    part = max(1, len(world.memory) // 4)
    medians = [statistics.median(world.memory[i * part:(i + 1) * part] or world.memory) / 1e6
               for i in range(4)]
    if len(world.memory) >= JUDGED_FROM and medians[3] > GROWTH * medians[1]:
        world.faults.append(f"the server's memory grows: {[round(m) for m in medians]} MB")
    return {f"MB of memory, quarter {i + 1}": round(m) for i, m in enumerate(medians)}


@contextmanager
def own_server() -> Iterator[tuple[comfy_process.Client, Path]]:
    """A server with the stand-in checkpoint, in a folder of its own."""
    import hosts
    import standin

    (host,), python = hosts.find_hosts(), Path(sys.executable)
    with tempfile.TemporaryDirectory(prefix="rival-") as name:
        folder = Path(name)
        comfy_process.prepare(folder, serving.PACK_NAME)
        serving.place(standin.cached(python, host, "sd15"),
                      folder / "models" / "checkpoints" / serving.CHECKPOINT)
        picture = folder / "input" / "example.png"
        serving.paint_a_hole(host.path / "input" / "example.png", picture)
        with comfy_process.running(host, python, folder, ["--force-fp32"],
                                   serving.PACK_NAME) as client:
            yield client, folder
