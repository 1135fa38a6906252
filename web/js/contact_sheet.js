// The pictures of RIVAL Choose as an element: a list box, by mouse and by keyboard.

import { make } from "./widgets.js";

const LEAST = 76; // pixels, of a cell
const GAP = 6;
const STILL = 5; // pixels that a pointer may move and still click
const WAITING = "The pictures are shown here when this has run.";
const GONE = "The pictures of the last run are gone: run it again to see them.";

const say = (className, text) => {
  const element = make("span", className);
  element.textContent = text;
  return element;
};

/** A part of a sheet, [left, top, width, height] of its pixels, as the background of an element. */
function cutOut(element, address, [sheetWidth, sheetHeight], [left, top, width, height]) {
  const place = (from, length, whole) => `${(100 * from) / Math.max(1, whole - length)}%`;
  Object.assign(element.style, {
    aspectRatio: `${width} / ${height}`,
    backgroundImage: `url(${JSON.stringify(address)})`,
    backgroundSize: `${(100 * sheetWidth) / width}% ${(100 * sheetHeight) / height}%`,
    backgroundPosition: `${place(left, width, sheetWidth)} ${place(top, height, sheetHeight)}`,
  });
}

/**
 * choose(batch, number, more) is called when a picture is clicked, `more` if it is to be added or
 * left out. Its `element` belongs on the page. `load(sheets)` shows pictures, of each batch
 * {address, size, boxes, captions}; `mark(chosen, locked)` says which numbers of each are chosen.
 * resized() is called when the element has another height than before.
 */
export class ContactSheet {
  constructor(choose, resized) {
    this.choose = choose;
    this.resized = resized;
    this.locked = false;
    this.height = 0; // of all that there is to show
    this.element = make("div", "rival-sheet", { "data-capture-wheel": true });
    this.grid = make("div", "grid", {
      role: "listbox",
      "aria-label": "Pictures to choose from",
      "aria-multiselectable": true,
    });
    this.note = say("note", WAITING);
    this.element.append(this.grid, this.note);
    this.grid.addEventListener("pointerdown", (event) => this.#grab(event));
    this.grid.addEventListener("keydown", (event) => this.#press(event));
    new ResizeObserver(() => this.#arrange()).observe(this.element);
    new ResizeObserver(() => this.#measure()).observe(this.grid);
    new ResizeObserver(() => this.#measure()).observe(this.note);
  }

  get options() {
    return [...this.grid.children];
  }

  load(sheets) {
    this.grid.replaceChildren(...sheets.flatMap((sheet, batch) =>
      sheet.boxes.map((box, i) => this.#option(sheet, batch, box, i))));
    this.options[0]?.setAttribute("tabindex", 0);
    this.#tell(WAITING);
    for (const { address } of sheets) {
      const image = new Image();
      image.onerror = () => this.#lose(address);
      image.src = address;
    }
    this.#arrange();
  }

  mark(chosen, locked) {
    this.locked = locked;
    for (const option of this.options) {
      const isChosen = chosen[option.batch].includes(Number(option.dataset.number));
      option.setAttribute("aria-selected", isChosen);
      option.setAttribute("aria-disabled", locked);
    }
  }

  #option(sheet, batch, box, i) {
    const words = sheet.captions[i];
    const option = make("div", "option", {
      role: "option",
      tabindex: -1,
      "data-number": i + 1,
      "aria-label": [`picture ${i + 1}`, ...words].join(", "),
    });
    option.title = words.join("\n");
    Object.assign(option, { batch, address: sheet.address });
    const picture = make("div", "picture");
    cutOut(picture, sheet.address, sheet.size, box);
    picture.append(say("number", i + 1));
    option.append(picture, ...words.map((line) => say("words", line)));
    return option;
  }

  #tell(text) {
    this.note.textContent = text;
    this.note.hidden = this.options.length > 0;
  }

  /** The server keeps previews until it is started anew. */
  #lose(address) {
    this.options.filter((option) => option.address === address).forEach((option) => option.remove());
    this.#tell(GONE);
  }

  /** As square as the batch, with cells that can still be told apart. */
  #arrange() {
    const room = this.element.clientWidth - 2 * GAP;
    if (room <= 0) return;
    const fitting = Math.max(1, Math.floor((room + GAP) / (LEAST + GAP)));
    this.columns = Math.min(fitting, Math.ceil(Math.sqrt(this.options.length || 1)));
    this.grid.style.gridTemplateColumns = `repeat(${this.columns}, 1fr)`;
    this.#measure();
  }

  #measure() {
    const height = Math.max(this.grid.offsetHeight, this.note.offsetHeight);
    if (!this.element.isConnected || !height || height === this.height) return;
    this.height = height;
    this.resized();
  }

  #pick(option, event) {
    if (this.locked) return;
    const more = event.ctrlKey || event.metaKey || event.shiftKey;
    this.choose(option.batch, Number(option.dataset.number), more);
  }

  /** At the pointer's release, which comes before the moment at which the editor keeps a draft. */
  #grab(event) {
    const option = event.target.closest(".option");
    if (event.button !== 0 || !option) return;
    this.#focus(option);
    const isClick = (up) =>
      Math.hypot(up.clientX - event.clientX, up.clientY - event.clientY) < STILL;
    const release = (up) => {
      window.removeEventListener("pointercancel", release, true);
      window.removeEventListener("pointerup", release, true);
      if (up.type === "pointerup" && isClick(up)) this.#pick(option, up);
    };
    window.addEventListener("pointerup", release, true);
    window.addEventListener("pointercancel", release, true);
  }

  #focus(option) {
    this.options.forEach((other) => other.setAttribute("tabindex", other === option ? 0 : -1));
    option.focus({ preventScroll: true });
    option.scrollIntoView({ block: "nearest" });
  }

  #press(event) {
    const options = this.options;
    const at = options.indexOf(event.target.closest(".option"));
    const target = {
      ArrowLeft: at - 1,
      ArrowRight: at + 1,
      ArrowUp: at - this.columns,
      ArrowDown: at + this.columns,
      Home: 0,
      End: options.length - 1,
      Enter: at,
      " ": at,
    }[event.key];
    if (at < 0 || target === undefined) return;
    event.preventDefault();
    event.stopPropagation(); // the editor has commands of its own on these keys
    if (target === at) this.#pick(options[at], event);
    else if (options[target]) this.#focus(options[target]);
  }
}
