// Which pictures a text chooses: the rules of rival_core/choosing/choice.py.

const NUMBERS = /^([0-9]{1,6})(?:\s*[-\u2013]\s*([0-9]{1,6}))?$/;
const BEST = /^best(?:\s*([0-9]{1,6}))?$/;
const BETWEEN = /[,;\uff0c\u3001]/;

/** The numbers that a piece of the text stands for, in its order; null if it stands for none. */
function numbersOf(piece, count, ranking) {
  const numbers = NUMBERS.exec(piece);
  const best = BEST.exec(piece);
  if (!numbers && !best && piece !== "all") return null;
  const first = Number(numbers?.[1] ?? 1);
  const last = Number(numbers ? (numbers[2] ?? numbers[1]) : best ? (best[1] ?? 1) : count);
  if (Math.min(first, last) < 1 || Math.max(first, last) > count || (best && !ranking)) return null;
  const places = Array.from({ length: Math.abs(last - first) + 1 }, (_, i) =>
    first <= last ? first + i : first - i);
  return best ? places.map((place) => ranking[place - 1]) : places;
}

/**
 * The numbers, of 1 to count, that a text chooses, each once; null where the node would refuse it.
 * ranking: all of them, the best first, or nothing if that is not known.
 */
export function picks(text, count, ranking) {
  const pieces = text.toLowerCase().split(BETWEEN).map((piece) => piece.trim()).filter(Boolean);
  if (pieces.length === 1 && pieces[0] === "none") return [];
  const numbers = pieces.map((piece) => numbersOf(piece, count, ranking));
  return numbers.length && !numbers.includes(null) ? [...new Set(numbers.flat())] : null;
}

/** The text that chooses these numbers. */
export const textOf = (numbers) => numbers.join(", ") || "none";

/** The numbers after a click: this one alone, or, with `more`, added at the end or left out. */
export function clicked(numbers, number, more) {
  if (!more) return [number];
  const rest = numbers.filter((other) => other !== number);
  return rest.length < numbers.length ? rest : [...numbers, number];
}
