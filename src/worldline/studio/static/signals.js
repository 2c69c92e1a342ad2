// Signals, their components and units, and the time axis.
export const MAX_LANES = 6;

// The curves of a signal: one per component of a vector, one for a discrete signal, none for an image.
export function curvesOf(signal) {
  if (signal.kind === "image") return [];
  if (signal.kind === "discrete") {
    const names = signal.components?.length ? signal.components : null;
    return [{ key: signal.name, signal, index: null, label: words(signal.name), unit: "", low: 0, high: signal.num_values - 1, names }];
  }
  const size = signal.shape[0];
  return Array.from({ length: size }, (_, index) => ({
    key: size > 1 ? `${signal.name}.${index}` : signal.name, signal, index,
    label: words(size > 1 ? `${signal.name} ${signal.components?.[index] ?? index + 1}` : signal.name),
    unit: shownUnit(signal.unit),
    low: signal.low?.[index] ?? null, high: signal.high?.[index] ?? null,
  }));
}

const SIGNS = { "1": "", "?": "", degC: "°C", degF: "°F", deg: "°", percent: "%", ohm: "Ω", um: "µm", us: "µs" };
export const shownUnit = unit => SIGNS[unit] ?? unit.replace(/([a-z])2\b/g, "$1²").replace(/([a-z])3\b/g, "$1³");
const words = name => name.replaceAll("_", " ");

export const curves = signals => signals.flatMap(curvesOf);
export const byRole = (schema, role) => schema.signals.filter(signal => signal.role === role);
export const cell = (row, index) => row == null ? null : index === null ? row : row[index];
export const column = (rows, index) => (rows ?? []).map(row => cell(row, index));

export function number(value, digits = 3) {
  if (value == null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const text = size !== 0 && (size >= 1e6 || size < 1e-4) ? value.toExponential(2) : String(+value.toPrecision(Math.max(digits, Math.ceil(Math.log10(size + 1)))));
  return text.replace("-", "−");
}

export const withUnit = (value, unit) => unit ? `${number(value)} ${unit}` : number(value);

const UNITS = [[86400, "d", "days"], [3600, "h", "hours"], [60, "min", "minutes"], [1, "s", "seconds"], [1e-3, "ms", "milliseconds"]];

// How steps are shown: the length of a step in the unit of the axis, and texts of moments.
export function timeAxis(step_s, span) {
  if (!step_s) return { scale: 1, label: "steps", text: step => `${number(step)} ${Math.abs(step) === 1 ? "step" : "steps"}` };
  const [seconds, short, label] = UNITS.find(([size]) => step_s * span >= (size > 1 ? 2 : 1) * size) ?? UNITS.at(-1);
  const scale = step_s / seconds;
  return { scale, label, text: step => `${number(step * scale)} ${short}` };
}

// The ends of a y axis with some space around the known values.
export function rangeOf(columns, low = null, high = null) {
  let least = Infinity, most = -Infinity;
  for (const values of columns) {
    for (const value of values) {
      if (value == null || !Number.isFinite(value)) continue;
      if (value < least) least = value;
      if (value > most) most = value;
    }
  }
  if (least > most) [least, most] = [low ?? 0, high ?? 1];
  const space = 0.06 * (most - least) || Math.abs(most) * 0.05 || 1;
  return [least - space, most + space];
}

export const clamp = (value, low, high) => Math.min(high ?? Infinity, Math.max(low ?? -Infinity, value));

// The shape and the bytes of picture `at` of a uint8 array {dtype, shape, data}, or of nested lists: of one picture, or of many.
export function pictureOf(array, at) {
  const shape = Array.isArray(array) ? shapeOf(array) : array.shape, size = shape.slice(-3).reduce((product, length) => product * length);
  const start = shape.length > 3 ? Math.min(at, shape[0] - 1) * size : 0;
  if (Array.isArray(array)) return { shape: shape.slice(-3), bytes: Uint8Array.from(array.flat(Infinity).slice(start, start + size)) };
  const skipped = start % 3; // four letters are three bytes
  const text = atob(array.data.slice((start - skipped) / 3 * 4, Math.ceil((start + size) / 3) * 4)), bytes = new Uint8Array(size);
  for (let k = 0; k < size; k++) bytes[k] = text.charCodeAt(skipped + k);
  return { shape: shape.slice(-3), bytes };
}
const shapeOf = array => Array.isArray(array) ? [array.length, ...shapeOf(array[0])] : [];
