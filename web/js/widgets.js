// What the pack's extensions to the editor share.

export const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

/** As if somebody had entered it. */
export function setValue(app, node, name, value) {
  const widget = widgetOf(node, name);
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
}

/** An element of the page. */
export const make = (tag, className, attributes = {}) => {
  const element = document.createElement(tag);
  element.className = className;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

/** Whether a wire sets the widget. */
export const isLinked = (node, name) =>
  (node.inputs ?? []).some((input) => input.widget?.name === name && input.link != null);

/** What the frontend keeps of the node's last run, until another workflow is opened. */
export const keptOf = (app, node) =>
  app.nodeOutputs?.[node.graph === app.graph ? node.id : `${node.graph?.id}:${node.id}`];

/** After an undo, Nodes 2.0 keeps the element of the node's predecessor on the page. */
export function takeOver(app, node, element) {
  if (node.graph !== app.canvas?.graph) return;
  const shown = document.querySelector(`[data-node-id="${node.id}"] .${element.className}`);
  if (shown && shown !== element) shown.replaceWith(element);
}

/** Has `after` called whenever the object's method was. */
export function follow(object, method, after) {
  const original = object[method];
  object[method] = function (...values) {
    const result = original?.apply(this, values);
    after(...values);
    return result;
  };
}

/**
 * An element on a node, neither sent nor saved.
 * margin: around it, in the classic renderer; height(): its pixels there, with the margin.
 */
export function addElement(node, name, element, margin, height) {
  const widget = node.addDOMWidget(name, `rival_${name}`, element, {
    serialize: false, // not sent to the server
    hideInPanel: true,
    margin,
    getMinHeight: height,
    getMaxHeight: height,
  });
  widget.serialize = false; // not saved
  // A side panel that lists the widgets leaves its own width on them; this one is the node's.
  Object.defineProperty(widget, "width", { get: () => undefined, set: () => {} });
  return widget;
}

export function addStyle(address) {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = address;
  document.head.append(link);
}
