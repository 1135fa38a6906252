// Shows on a node what its last run had to say: below its widgets, above any picture.
// As text, never as HTML: it repeats file names, prompts and what a chain file holds.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { addElement, addStyle, follow, keptOf, widgetOf } from "./widgets.js";

const WIDGET = "last_run";
const MARGIN = 6; // around the element, in the classic renderer
const TOAST = 15_000; // milliseconds

const isOurs = (node) => Boolean(node?.comfyClass?.startsWith("Rival"));

/** The node of an execution id: "11", or "14:11", which is in the subgraph of node 14. */
const nodeOf = (id) =>
  String(id).split(":").reduce((node, part) => node?.subgraph?.getNodeById(part), {
    subgraph: app.graph,
  });

/** How high a text is at a node's width, whether or not it is on the page. */
const heightOf = (() => {
  const ruler = document.createElement("div");
  return (text, width) => {
    if (!ruler.isConnected) document.body.append(ruler);
    ruler.className = "rival-notices ruler";
    ruler.style.width = `${width}px`;
    ruler.textContent = text;
    return ruler.offsetHeight;
  };
})();

function addNotices(node) {
  const element = document.createElement("div");
  element.className = "rival-notices";
  let measured = {};
  const height = () => {
    const [text, width] = [element.textContent, node.size[0] - 2 * MARGIN];
    if (!text) return 0;
    if (measured.text !== text || measured.width !== width) {
      measured = { text, width, height: heightOf(text, width) + 2 * MARGIN };
    }
    return measured.height;
  };
  const widget = addElement(node, WIDGET, element, MARGIN, height);
  const picture = node.widgets.findIndex((other) => other.name.startsWith("$$")); // the frontend's
  if (picture >= 0) node.widgets.splice(picture, 0, ...node.widgets.splice(-1));
  return widget;
}

/** Returns whether the node said something else before. */
function show(node, { text = [], notices = [] } = {}) {
  const said = text.join("\n");
  const widget = widgetOf(node, WIDGET) ?? (said && addNotices(node));
  if (!widget || widget.element.textContent === said) return false;
  widget.element.textContent = said;
  widget.element.classList.toggle("warns", notices.length > 0);
  widget.element.hidden = widget.hidden = !said;
  node.setDirtyCanvas?.(true, true);
  return true;
}

/** What an earlier run said no longer holds. */
function clear(node) {
  const kept = keptOf(app, node);
  if (kept) Object.assign(kept, { text: [], notices: [] });
  show(node);
}

/** A notice is also told where its node cannot be seen: in a closed subgraph, or collapsed. */
function tell(node, output) {
  const isNew = show(node, output ?? {});
  const notices = output?.notices ?? [];
  const inSight = node.graph === app.canvas.graph && !node.flags?.collapsed;
  if (!isNew || !notices.length || inSight) return;
  const detail = notices.join("\n");
  app.extensionManager.toast.add({ severity: "warn", summary: node.title, detail, life: TOAST });
}

app.registerExtension({
  name: "rival.notices",
  setup() {
    addStyle(new URL("./notices.css", import.meta.url));
    api.addEventListener("executing", ({ detail }) => {
      const node = nodeOf(detail);
      if (isOurs(node)) clear(node);
    });
    api.addEventListener("executed", ({ detail }) => {
      const node = nodeOf(detail.display_node ?? detail.node);
      if (isOurs(node)) tell(node, detail.output);
    });
  },
  nodeCreated(node) {
    if (!isOurs(node)) return;
    follow(node, "onExecutionStart", () => node.mode && clear(node)); // bypassed: it will not run
    // An undo, or another workflow's tab, makes the nodes anew, then gives back what is kept.
    follow(node, "onConfigure", () => setTimeout(() => node.graph && show(node, keptOf(app, node))));
  },
});
