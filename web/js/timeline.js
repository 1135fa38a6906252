// The timeline's element: what each part of the schedule reads, and a handle for each gate.

import { fractionAt, lanes } from "./gates.js";
import { make } from "./widgets.js";

const STEP = 0.01;
const LEAP = 0.1;
const LANE_OF = {
  inject_start: "attention",
  replace_end: "attention",
  inject_end: "attention",
  normalize_end: "colours",
};
export const GATES = Object.keys(LANE_OF);

const WORDS = { // the label, a shorter one, the meaning
  plain: ["plain", "–", "The model alone"],
  replace: ["only the photo", "photo", "The new image reads only the photo"],
  concat: ["photo and itself", "both", "The new image reads the photo and itself"],
  normalized: [
    "photo's colours", "photo's", "The predicted noise takes the photo's colours and contrast",
  ],
  own: ["own colours", "own", "Colours and contrast are the new image's own"],
};
const COUNTED = "\nAs in the paper's code, a step right at a gate still takes the colours, and no longer "
  + "reads only the photo: so the same value may count one step more for the colours.";

const percent = (fraction) => `${100 * fraction}%`;

/** A fraction of the schedule as the widgets hold it. */
const fraction = (value) => Number(Math.min(1, Math.max(0, value)).toFixed(2));

/**
 * set(gate, value) is called when a handle moves.
 * Its `element` belongs on the page; `show({gates, locked, timesteps, slack, strength})` draws it
 * anew: gates {name: fraction}, locked: names that a wire sets, timesteps: the chain's, or [], and
 * their slack (see gates.js). `sleep(isAsleep)` dims it: its node is bypassed.
 */
export class Timeline {
  constructor(set) {
    this.set = set;
    this.state = { gates: {}, locked: [], timesteps: [], slack: null, strength: 1 };
    this.element = make("div", "rival-timeline", { role: "group", "aria-label": "Schedule" });
    this.lanes = {
      attention: make("div", "lane attention"),
      colours: make("div", "lane colours"),
    };
    this.steps = make("div", "steps");
    this.caption = make("span", "caption");
    const axis = make("div", "axis");
    axis.append("noise", this.caption, "image");
    this.element.append(...Object.values(this.lanes), this.steps, axis);
    this.handles = Object.fromEntries(GATES.map((gate) => [gate, this.#handle(gate)]));
    for (const gate of GATES) this.lanes[LANE_OF[gate]].append(this.handles[gate]);
    new ResizeObserver(() => this.#fit()).observe(this.element);
  }

  sleep(isAsleep) {
    this.element.classList.toggle("asleep", isAsleep);
  }

  show(state) {
    this.state = state;
    const drawn = lanes(state.gates, state.timesteps, state.slack);
    for (const [name, lane] of Object.entries(this.lanes)) this.#showLane(lane, drawn[name]);
    for (const gate of GATES) this.#showHandle(gate);
    this.#showSteps();
    this.#fit();
  }

  #showLane(lane, parts) {
    lane.querySelectorAll(".part").forEach((part) => part.remove());
    lane.prepend(...parts.map((part) => this.#part(part)));
  }

  #part({ kind, from, to, steps }) {
    const [label, short, meaning] = WORDS[kind];
    const { timesteps, slack } = this.state;
    const why = slack === null && (kind === "replace" || kind === "normalized") ? COUNTED : "";
    const title = timesteps.length ? `${meaning}: ${steps} of ${timesteps.length} steps${why}` : meaning;
    const part = make("div", `part ${kind}`, { title, "data-steps": steps });
    Object.assign(part.style, { left: percent(from), width: percent(to - from) });
    if (kind !== "plain" && kind !== "own") part.style.opacity = 0.35 + 0.65 * this.state.strength;
    part.append(make("span", ""));
    const counted = [`${label} · ${steps}`, `${short} · ${steps}`, `${steps}`];
    part.words = timesteps.length ? counted : [label, short];
    return part;
  }

  /** Every part says the longest of its words that it has room for, uncut, or none. */
  #fit() {
    for (const part of this.element.querySelectorAll(".part")) {
      const said = part.firstChild;
      part.words.concat("").some((words) => {
        said.textContent = words;
        return said.offsetWidth <= part.clientWidth;
      });
    }
  }

  #showHandle(gate) {
    const handle = this.handles[gate];
    const value = this.state.gates[gate];
    const locked = this.state.locked.includes(gate);
    handle.style.left = percent(value);
    handle.setAttribute("aria-valuenow", value);
    handle.setAttribute("aria-disabled", locked);
    handle.title = locked ? `${gate} is set by its input` : `${gate}: ${value.toFixed(2)}`;
  }

  #showSteps() {
    const { timesteps } = this.state;
    this.steps.replaceChildren(...timesteps.map((t) => {
      const tick = make("i", "");
      tick.style.left = percent(fractionAt(t));
      return tick;
    }));
    this.caption.textContent = timesteps.length ? `the chain's ${timesteps.length} steps` : "";
  }

  #handle(gate) {
    const handle = make("div", "handle", {
      role: "slider",
      tabindex: 0,
      "data-gate": gate,
      "aria-label": gate,
      "aria-valuemin": 0,
      "aria-valuemax": 1,
    });
    handle.addEventListener("pointerdown", (event) => this.#grab(event, gate));
    handle.addEventListener("keydown", (event) => this.#press(event, gate));
    return handle;
  }

  #move(gate, value) {
    const next = fraction(value);
    if (this.state.locked.includes(gate) || next === this.state.gates[gate]) return;
    this.set(gate, next);
  }

  #grab(event, gate) {
    if (event.button !== 0) return;
    const handle = this.handles[gate];
    handle.focus({ preventScroll: true });
    handle.setPointerCapture(event.pointerId);
    const follow = (moved) => {
      const lane = this.lanes[LANE_OF[gate]].getBoundingClientRect(); // as zoomed now
      this.#move(gate, (moved.clientX - lane.left) / lane.width);
    };
    const letGo = () => handle.removeEventListener("pointermove", follow);
    handle.addEventListener("pointermove", follow);
    handle.addEventListener("lostpointercapture", letGo, { once: true });
  }

  #press(event, gate) {
    const value = this.state.gates[gate];
    const leap = event.shiftKey ? LEAP : STEP;
    const target = {
      ArrowLeft: value - leap,
      ArrowDown: value - leap,
      ArrowRight: value + leap,
      ArrowUp: value + leap,
      PageDown: value - LEAP,
      PageUp: value + LEAP,
      Home: 0,
      End: 1,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.#move(gate, target);
  }
}
