// The schedule's gates, as rival_core/steering/gates.py has them. Pure: numbers in, numbers out.

/** The paper's timestep at a fraction of the schedule, 0 at pure noise; to a millionth. */
const timestepAt = (fraction) => Math.round(1e9 * (1 - fraction)) / 1e6;

/** The fraction of the schedule at a timestep. */
export const fractionAt = (t) => 1 - t / 1000;

/**
 * What self-attention reads at timestep t: "plain", "replace" or "concat".
 * slack: of the model's timesteps; null where the official counter compares whole ones.
 */
export function attention(gates, t, slack = null) {
  if (gates.inject_start >= gates.inject_end) return "plain";
  const before = t - (slack ?? 1); // the official counter compares t - 1
  if (before > timestepAt(gates.inject_start) || before < timestepAt(gates.inject_end)) return "plain";
  return before > timestepAt(gates.replace_end) ? "replace" : "concat";
}

/** Whether the predicted noise takes the photo's statistics at timestep t. */
export const normalizes = (gates, t, slack = null) =>
  t - (slack ?? 0) > timestepAt(gates.normalize_end);

/**
 * The two lanes of the timeline, cut where a gate is.
 * Returns {attention, colours}: lists of {kind, from, to, steps}, left to right, without empty ones.
 * timesteps: those of the chain, or empty; `steps` counts the ones in a segment. slack: of them.
 */
export function lanes(gates, timesteps, slack = null) {
  const start = gates.inject_start;
  const end = Math.max(start, gates.inject_end);
  const middle = Math.min(Math.max(start, gates.replace_end), end);
  return {
    attention: counted(
      [
        { kind: "plain", from: 0, to: start },
        { kind: "replace", from: start, to: middle },
        { kind: "concat", from: middle, to: end },
        { kind: "plain", from: end, to: 1 },
      ],
      timesteps,
      (t) => attention(gates, t, slack),
    ),
    colours: counted(
      [
        { kind: "normalized", from: 0, to: gates.normalize_end },
        { kind: "own", from: gates.normalize_end, to: 1 },
      ],
      timesteps,
      (t) => (normalizes(gates, t, slack) ? "normalized" : "own"),
    ),
  };
}

/** The parts that are not empty, each with the number of steps that the rule puts there. */
function counted(parts, timesteps, rule) {
  const wide = parts.filter((part) => part.to > part.from);
  const partOf = (t) => nearest(wide.filter((part) => part.kind === rule(t)), fractionAt(t));
  const places = timesteps.map(partOf);
  return wide.map((part) => ({ ...part, steps: places.filter((place) => place === part).length }));
}

/** Of two plain parts, the one that a fraction is in or next to. */
function nearest(parts, fraction) {
  const distance = (part) => Math.max(part.from - fraction, fraction - part.to);
  return parts.reduce((a, b) => (a && distance(a) <= distance(b) ? a : b), undefined);
}
