// A button on RIVAL Load Chain that uploads a chain file; one may also be dropped on the node.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { setValue, widgetOf } from "./widgets.js";

const NODE = "RivalLoadChain";
const KIND = ".safetensors";
const NONE_YET = "(none yet: save or upload a chain)"; // the server's only entry while there is none

/** Puts a file into the input folder; returns the name that the node knows it by. */
async function upload(file) {
  const body = new FormData();
  body.append("image", file, file.name.replaceAll("<", "_")); // else it would not be listed
  const answer = await api.fetchApi("/upload/image", { method: "POST", body });
  if (!answer.ok) throw new Error(`the server answered ${answer.status} ${answer.statusText}`);
  const { name, subfolder } = await answer.json();
  return subfolder ? `${subfolder}/${name}` : name;
}

async function uploadInto(node, file) {
  try {
    const name = await upload(file);
    const { values } = widgetOf(node, "chain_file").options;
    if (Array.isArray(values) && !values.includes(name)) values.push(name);
    if (values?.[0] === NONE_YET) values.shift();
    setValue(app, node, "chain_file", name);
    app.graph.setDirtyCanvas(true, true);
  } catch (error) {
    const detail = `${file.name} was not uploaded: ${error.message}.`;
    app.extensionManager.toast.add({ severity: "error", summary: "RIVAL Load Chain", detail });
  }
}

function chooseFor(node) {
  const input = Object.assign(document.createElement("input"), { type: "file", accept: KIND });
  input.addEventListener("change", () => input.files.length && uploadInto(node, input.files[0]));
  input.click();
}

const dropped = (event) =>
  [...(event.dataTransfer?.files ?? [])].find((file) => file.name.endsWith(KIND));

function addUpload(node) {
  const options = { serialize: false }; // not sent to the server
  const button = node.addWidget("button", "upload", null, () => chooseFor(node), options);
  button.label = "choose chain to upload";
  button.serialize = false; // not saved
  node.onDragOver = (event) => [...(event.dataTransfer?.items ?? [])].some((i) => i.kind === "file");
  node.onDragDrop = (event) => {
    const file = dropped(event);
    if (file) uploadInto(node, file);
    return Boolean(file);
  };
}

/** Takes the first chain once there is one, where none could be chosen before. */
function chooseFirst(node) {
  const widget = widgetOf(node, "chain_file");
  const [first] = widget.options.values;
  if (widget.value === NONE_YET && first !== NONE_YET) setValue(app, node, "chain_file", first);
}

app.registerExtension({
  name: "rival.load_chain",
  nodeCreated(node) {
    if (node.comfyClass === NODE) addUpload(node);
  },
  refreshComboInNodes() {
    app.graph.nodes.filter((node) => node.comfyClass === NODE).forEach(chooseFirst);
  },
});
