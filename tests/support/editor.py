"""ComfyUI's graph editor in a headless browser, driven as an artist drives it."""

from __future__ import annotations

import contextlib
import json
import urllib.parse
from dataclasses import dataclass, field

SETTINGS = {  # the panel that lists a node's widgets again, and nothing that comes up by itself
    "Comfy.RightSidePanel.IsOpen": True,
    "Comfy.TutorialCompleted": True,
    "Comfy.Release.Status": "skipped",
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.OnboardingCoachmarks.Seen": ["appMode"],
    "Comfy.Minimap.Visible": False,
    "Comfy.VueNodes.AutoScaleLayout": False,
}
READY = """() => window.app?.graph && window.app.extensionManager
           && window.LiteGraph?.registered_node_types?.RivalInvert"""
NODE = "(type) => app.graph.nodes.find((node) => node.type === type)"
COMMAND = "(name) => { app.extensionManager.command.execute(name) }"
MODE = """() => {
    const workflow = app.extensionManager.workflow?.activeWorkflow;
    return workflow?.activeMode ?? workflow?.initialMode;
}"""  # "app", "graph", or neither where there are no apps
CLEAR = "() => { app.extensionManager.toast.removeAll() }"
CHOOSE = """async (settings) => {
    for (const [name, value] of Object.entries(settings))
        await app.extensionManager.setting.set(name, value);
}"""
PICTURES = """(() => app.graph.nodes.filter((node) => node.type === "SaveImage").flatMap((node) =>
    node.imgs ?? [...document.querySelectorAll(`[data-node-id="${node.id}"] img`)])
    .filter((image) => image.naturalWidth).length)"""  # in the classic renderer, or in Nodes 2.0
CENTRE = f"""([type, scale]) => {{
    const node = ({NODE})(type), view = app.canvas, page = view.canvas.getBoundingClientRect();
    view.deselectAll?.();
    view.ds.scale = scale;
    view.ds.offset[0] = page.width / scale / 2 - node.pos[0] - node.size[0] / 2;
    view.ds.offset[1] = page.height / scale / 2 - node.pos[1] - node.size[1] / 2;
    view.setDirty(true, true);
}}"""

LISTEN = """() => {
    window.ended = undefined;
    for (const kind of ["execution_success", "execution_error"])
        comfyAPI.api.api.addEventListener(kind, () => { window.ended = kind }, { once: true });
}"""


def look_of(nodes_2: bool, palette: str) -> dict:
    return {"Comfy.VueNodes.Enabled": nodes_2, "Comfy.ColorPalette": palette}


@dataclass
class Editor:
    """One page of a running server."""

    page: object
    address: str
    errors: list[str] = field(default_factory=list)  # what the console held, as text and place

    def open(self, nodes_2: bool = False, palette: str = "dark") -> Editor:
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.errors.append(str(error.stack)))
        # Core's own templates are a package of their own, and the registry of custom nodes, which
        # is asked about the nodes of a template, is elsewhere: the tests do without.
        self.page.route("**/templates/index*.json", lambda route: route.fulfill(json=[]))
        self.page.route("https://api.comfy.org/**", lambda route: route.fulfill(json={}))
        for name, value in {**SETTINGS, **look_of(nodes_2, palette)}.items():
            self.page.request.post(f"{self.address}/settings/{name}", data=json.dumps(value))
        self.page.goto(self.address)
        return self.wait_until_ready()

    def look(self, nodes_2: bool, palette: str) -> Editor:
        """An empty workflow in this renderer, and nothing heard yet."""
        self.page.keyboard.press("Escape")
        self.page.evaluate(CLEAR)
        self.command("Comfy.NewBlankWorkflow")
        self.page.evaluate(CHOOSE, look_of(nodes_2, palette))
        self.page.wait_for_timeout(500)
        self.errors.clear()
        return self

    def reload(self) -> Editor:
        self.page.reload()
        return self.wait_until_ready()

    def wait_until_ready(self) -> Editor:
        self.page.wait_for_function(READY, timeout=120_000)
        self.page.wait_for_timeout(1500)  # the first workflow is loaded by then
        return self

    def our_errors(self) -> list[str]:
        """What the console held that names this pack."""
        return [error for error in self.errors if "rival" in error.lower()]

    def command(self, name: str) -> None:
        self.page.evaluate(COMMAND, name)

    def browse_templates(self, pack: str):
        """The dialog, open at a pack's."""
        self.command("Comfy.BrowseTemplates")
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_text(pack, exact=True).first.click()
        return dialog

    def open_template(self, pack: str, name: str) -> None:
        """From the browser's own dialog."""
        dialog = self.browse_templates(pack)
        dialog.get_by_placeholder("Search").fill(name)  # older ones list a part until one scrolls
        dialog.get_by_text(name, exact=True).first.click()
        dialog.wait_for(state="hidden")
        self.page.wait_for_function("() => app.graph.nodes.length > 4")

    def scale(self) -> float:
        return self.page.evaluate("() => app.canvas.ds.scale")

    def canvas(self) -> tuple[float, float]:
        """Its width and height, in pixels."""
        return self.page.evaluate(
            "() => { const box = app.canvas.canvas.getBoundingClientRect();"
            "        return [box.width, box.height] }"
        )

    def load(self, workflow: dict) -> None:
        self.page.evaluate("(workflow) => app.loadGraphData(workflow)", workflow)
        self.page.wait_for_timeout(250)

    def add(self, node_type: str) -> None:
        """A graph of this node alone, under an id not used before: frontends keep state by id."""
        self.page.evaluate(
            """(type) => {
                window.added = (window.added ?? 0) + 1;
                app.graph.clear();
                const node = LiteGraph.createNode(type);
                node.id = window.added;
                node.pos = [0, 0];
                app.graph.add(node);
            }""",
            node_type,
        )

    def add_by_search(self, name: str) -> None:
        """As who knows its name does: a double click on the canvas, the name, Enter, a click."""
        box = self.page.locator("#graph-canvas").bounding_box()
        middle = box["x"] + box["width"] / 3, box["y"] + box["height"] / 2
        self.page.mouse.dblclick(*middle)
        search = self.page.get_by_role("dialog")
        search.get_by_role("combobox").or_(search.locator("input")).first.focus()
        self.page.keyboard.type(name)
        search.get_by_role("option", selected=True).filter(has_text=name).wait_for()
        self.page.keyboard.press("Enter")
        search.wait_for(state="hidden")
        self.page.mouse.click(*middle)
        self.page.wait_for_function("() => app.graph.nodes.length > 0")

    def missing_nodes(self) -> list[str]:
        return self.page.evaluate(
            "() => app.graph.nodes.filter((node) => node.has_errors).map((node) => node.type)"
        )

    def prompt(self) -> dict:
        """What the browser would send to the server."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def saved(self) -> dict:
        """The graph as a file holds it."""
        return self.page.evaluate("() => app.graph.serialize()")

    def widgets(self, node_type: str) -> dict:
        return self.page.evaluate(
            f"""(type) => Object.fromEntries(
                ({NODE})(type).widgets.map((widget) => [widget.name, widget.value]))""",
            node_type,
        )

    def set_widgets(self, node_id: str, values: dict) -> None:
        self.page.evaluate(
            """([id, values]) => app.graph.getNodeById(id).widgets.forEach((widget) => {
                if (widget.name in values) widget.value = values[widget.name];
            })""",
            [int(node_id), values],
        )

    def node(self, node_type: str) -> dict:
        """As a file holds it."""
        return next(node for node in self.saved()["nodes"] if node["type"] == node_type)

    def enter(self, node_type: str, name: str, value: float) -> None:
        """As the frontend does when somebody has typed a value."""
        self.page.evaluate(
            f"""([type, name, value]) => {{
                const node = ({NODE})(type);
                const widget = node.widgets.find((widget) => widget.name === name);
                widget.value = value;
                widget.callback?.(value, app.canvas, node);
            }}""",
            [node_type, name, value],
        )

    def press(self, node_type: str, name: str) -> None:
        """A button widget: an element in Nodes 2.0, a drawing in the classic renderer."""
        label = self.page.evaluate(
            f"""([type, name]) => ({NODE})(type).widgets
                .find((widget) => widget.name === name).label""",
            [node_type, name],
        )
        button = self.page.get_by_role("button", name=label)
        if button.count():
            return button.first.click()
        x, y = self.page.evaluate(
            f"""([type, name]) => {{
                const node = ({NODE})(type), view = app.canvas;
                const widget = node.widgets.find((widget) => widget.name === name);
                const page = view.canvas.getBoundingClientRect();
                const place = [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.last_y + 10];
                return place.map((at, i) => (at + view.ds.offset[i]) * view.ds.scale
                    + [page.left, page.top][i]);
            }}""",
            [node_type, name],
        )
        self.page.mouse.click(x, y)

    def outline(self, node_type: str) -> dict:
        """Where the page shows the node, with its title and a margin, in pixels."""
        x, y, width, height = self.page.evaluate(
            f"""(type) => {{
                const node = ({NODE})(type), view = app.canvas;
                const element = document.querySelector(`[data-node-id="${{node.id}}"]`);
                if (element) {{
                    const box = element.getBoundingClientRect();
                    return [box.x - 12, box.y - 12, box.width + 24, box.height + 24];
                }}
                const page = view.canvas.getBoundingClientRect(), scale = view.ds.scale;
                return [(node.pos[0] + view.ds.offset[0]) * scale + page.left - 12,
                    (node.pos[1] - 30 + view.ds.offset[1]) * scale + page.top - 12,
                    node.size[0] * scale + 24, (node.size[1] + 30) * scale + 24];
            }}""",
            node_type,
        )
        return {"x": max(x, 0), "y": max(y, 0), "width": width, "height": height}

    def set_mode(self, node_type: str, mode: int) -> None:
        """0 runs, 4 is bypassed; as the frontend's own commands do."""
        self.page.evaluate(
            f"""([type, mode]) => {{
                const node = ({NODE})(type);
                app.canvas.selectNode?.(node);
                node.mode = mode;
                node.setDirtyCanvas(true, true);
            }}""",
            [node_type, mode],
        )

    def wire_a_number(self, node_type: str, name: str) -> None:
        """Have a PrimitiveFloat set a widget."""
        self.page.evaluate(
            f"""([type, name]) => {{
                const node = ({NODE})(type), source = LiteGraph.createNode("PrimitiveFloat");
                app.graph.add(source);
                source.connect(0, node, node.inputs.findIndex((input) => input.name === name));
            }}""",
            [node_type, name],
        )

    def save_as(self, name: str) -> None:
        self.command("Comfy.SaveWorkflowAs")
        self.page.get_by_role("dialog").get_by_role("textbox").fill(name)
        self.page.keyboard.press("Enter")
        self.page.wait_for_timeout(1000)

    def centre(self, node_type: str, scale: float = 1.5) -> None:
        self.page.evaluate(CENTRE, [node_type, scale])
        self.page.wait_for_timeout(300)

    def run(self, pictures: int, timeout: float = 120) -> None:
        """Press Run, and wait until so many pictures are shown on the nodes that save."""
        if self.page.evaluate(MODE) == "app":
            self.command("Comfy.ToggleLinear")
        assert self.page.evaluate(PICTURES) == 0
        self.command("Comfy.Canvas.FitView")  # a picture is loaded when its node is drawn
        self.page.get_by_role("button", name="Run", exact=True).first.click()
        self.page.wait_for_function(f"{PICTURES}() >= {pictures}", timeout=1000 * timeout)

    def run_to_its_end(self, timeout: float = 20) -> str:
        """Press Run; returns the server's last event: execution_success, or execution_error."""
        self.page.evaluate(LISTEN)
        self.page.get_by_role("button", name="Run", exact=True).first.click()
        self.page.wait_for_function("() => window.ended", timeout=1000 * timeout)
        self.page.wait_for_timeout(300)
        return self.page.evaluate("() => window.ended")

    def said(self, node_id: str) -> str:
        """The text on a node of the graph that is open; nothing if the page does not show it."""
        return self.page.evaluate(
            """(id) => {
                const widgets = app.canvas.graph.getNodeById(id).widgets ?? [];
                const element = widgets.find((widget) => widget.name === "last_run")?.element;
                return element?.checkVisibility() ? element.innerText : "";
            }""",
            node_id,
        )

    def stored_workflow(self, name: str) -> dict:
        """A workflow's file on the server."""
        file = urllib.parse.quote(f"workflows/{name}.json", safe="")
        return self.page.request.get(f"{self.address}/api/userdata/{file}").json()

    def _heard(self, message) -> None:
        if message.type == "error":
            place = {}
            with contextlib.suppress(Exception):
                place = message.location
            self.errors.append(f"{message.text} {place.get('url', '')}")
