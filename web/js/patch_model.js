// Puts the timeline on RIVAL Patch Model. Everything it does, the node's widgets do without it.

import { app } from "../../../scripts/app.js";
import { GATES, Timeline } from "./timeline.js";
import {
  addElement, addStyle, follow, isLinked, setValue, takeOver, widgetOf,
} from "./widgets.js";

const NODE = "RivalPatchModel";
const HEIGHT = 66;
const MARGIN = 6; // around the element, in the classic renderer

const stateOf = (node, { timesteps, slack }) => ({
  gates: Object.fromEntries(GATES.map((gate) => [gate, widgetOf(node, gate).value])),
  locked: GATES.filter((gate) => isLinked(node, gate)),
  strength: widgetOf(node, "strength").value,
  timesteps,
  slack,
});

function addTimeline(node) {
  let chain = { timesteps: [], slack: null };
  const timeline = new Timeline((gate, value) => setValue(app, node, gate, value));
  const show = () => {
    timeline.show(stateOf(node, chain));
    node.setDirtyCanvas?.(true, true);
  };
  addElement(node, "timeline", timeline.element, MARGIN, () => HEIGHT + 2 * MARGIN);
  for (const name of [...GATES, "strength"]) follow(widgetOf(node, name), "callback", show);
  follow(node, "onConfigure", () => {
    takeOver(app, node, timeline.element);
    show();
  });
  follow(node, "onConnectionsChange", show);
  follow(node, "onDrawForeground", () => timeline.sleep(node.mode !== 0)); // at every drawing
  follow(node, "onExecuted", (output) => {
    const timesteps = output?.chain_timesteps;
    if (timesteps) chain = { timesteps, slack: output.chain_slack?.[0] ?? null };
    show();
  });
  show();
}

app.registerExtension({
  name: "rival.timeline",
  setup: () => addStyle(new URL("./timeline.css", import.meta.url)),
  nodeCreated(node) {
    if (node.comfyClass === NODE) addTimeline(node);
  },
});
