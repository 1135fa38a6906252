// The schedule's gates, as rival_core/gates.py has them. Pure: numbers in, numbers out.

/** The paper's timestep at a fraction of the schedule, 0 at pure noise; to a millionth. */
const timestepAt = (fraction) => Math.round(1e9 * (1 - fraction)) / 1e6;

/** The fraction of the schedule at a timestep. */
export const fractionAt = (t) => 1 - t / 1000;

/** What self-attention reads at timestep t: "plain", "replace" or "concat". */
export function attention(gates, t) {
  if (gates.inject_start >= gates.inject_end) return "plain";
  const before = t - 1; // the official counter compares t - 1
  if (before > timestepAt(gates.inject_start) || before < timestepAt(gates.inject_end)) return "plain";
  return before > timestepAt(gates.replace_end) ? "replace" : "concat";
}

/** Whether the predicted noise takes the photo's statistics at timestep t. */
export const normalizes = (gates, t) => t > timestepAt(gates.normalize_end);

/**
 * The two lanes of the timeline, cut where a gate is.
 * Returns {attention, colours}: lists of {kind, from, to, steps}, left to right, without empty ones.
 * timesteps: those of the chain, or empty; `steps` counts the ones in a segment.
 */
export function lanes(gates, timesteps) {
  const start = gates.inject_start;
  const end = Math.max(start, gates.inject_end);
  const middle = Math.min(Math.max(start, gates.replace_end), end);
  const count = (rule, kind) => timesteps.filter((t) => rule(t) === kind).length;
  const attentionAt = (t) => attention(gates, t);
  const coloursAt = (t) => (normalizes(gates, t) ? "normalized" : "own");
  return {
    attention: [
      { kind: "plain", from: 0, to: start },
      { kind: "replace", from: start, to: middle },
      { kind: "concat", from: middle, to: end },
      { kind: "plain", from: end, to: 1 },
    ].filter(isWide).map((part) => ({ ...part, steps: count(attentionAt, part.kind) })),
    colours: [
      { kind: "normalized", from: 0, to: gates.normalize_end },
      { kind: "own", from: gates.normalize_end, to: 1 },
    ].filter(isWide).map((part) => ({ ...part, steps: count(coloursAt, part.kind) })),
  };
}

const isWide = (part) => part.to > part.from;
