// Puts the pictures on RIVAL Choose. A click writes into its widget, which is all that is saved.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { clicked, picks, textOf } from "./choice.js";
import { ContactSheet } from "./contact_sheet.js";
import {
  addElement, addStyle, follow, isLinked, keptOf, setValue, takeOver, widgetOf,
} from "./widgets.js";

const NODE = "RivalChoose";
const MARGIN = 6; // around the element, in the classic renderer
const MOST = 520; // pixels of height; further pictures are scrolled to
const WIDTH = 400; // of a new node

/** What a run has shown: a sheet for each batch of a list, and where its file is. */
const sheetsOf = ({ sheets = [], images = [] } = {}) =>
  sheets.map((sheet, i) => ({
    ...sheet,
    address: api.apiURL(`/view?${new URLSearchParams(images[i])}`),
  }));

/** The host's own view of the same picture would stand below. */
function hideOwnPreview(node) {
  node.hideOutputImages = true; // Nodes 2.0
  node.onDrawBackground = () => {}; // the classic renderer
}

function addSheet(node) {
  let sheets = [];
  const chosen = () => {
    const [text, score] = ["chosen", "rank_by"].map((name) => widgetOf(node, name).value);
    return sheets.map(({ boxes, rankings }) => picks(text, boxes.length, rankings[score]) ?? []);
  };
  const choose = (batch, number, more) =>
    setValue(app, node, "chosen", textOf(clicked(chosen()[batch], number, more)));
  const sheet = new ContactSheet(choose, () => node.setDirtyCanvas?.(true, true));
  const mark = () => {
    sheet.mark(chosen(), isLinked(node, "chosen"));
    node.setDirtyCanvas?.(true, true);
  };
  const load = (output) => {
    sheets = sheetsOf(output);
    sheet.load(sheets);
    mark();
  };
  const height = () => Math.min(sheet.height, MOST) + 2 * MARGIN;
  sheet.element.style.maxHeight = `${MOST}px`;
  addElement(node, "pictures", sheet.element, MARGIN, height);
  hideOwnPreview(node);
  for (const name of ["chosen", "rank_by"]) follow(widgetOf(node, name), "callback", mark);
  follow(node, "onConnectionsChange", mark);
  follow(node, "onExecuted", load);
  // An undo, or another workflow's tab, makes the nodes anew, then gives back what is kept.
  follow(node, "onConfigure", () => {
    takeOver(app, node, sheet.element);
    mark();
    setTimeout(() => node.graph && load(keptOf(app, node)));
  });
  node.setSize?.([Math.max(WIDTH, node.size[0]), node.size[1]]);
  mark();
}

app.registerExtension({
  name: "rival.choose",
  setup: () => addStyle(new URL("./contact_sheet.css", import.meta.url)),
  nodeCreated(node) {
    if (node.comfyClass === NODE) addSheet(node);
  },
});
