// What the pack's extensions to the editor share.

export const widgetOf = (node, name) => node.widgets.find((widget) => widget.name === name);

/** As if somebody had entered it. */
export function setValue(app, node, name, value) {
  const widget = widgetOf(node, name);
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
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
