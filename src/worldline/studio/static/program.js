// Runs programs of worldline/studio/play_program.py: operations on arrays of numbers with fixed sizes.

// Largest error 1.5e-7. Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - tail * Math.exp(-x * x));
}

const MAPS = {
  exp: Math.exp, log: Math.log, log1p: Math.log1p, sqrt: Math.sqrt, tanh: Math.tanh, trunc: Math.trunc,
  gelu: x => x * 0.5 * (1 + erf(x * Math.SQRT1_2)), sigmoid: x => 1 / (1 + Math.exp(-x)),
  bitwise_not: x => x ? 0 : 1, logical_not: x => x ? 0 : 1,
  add: (a, b) => a + b, sub: (a, b) => a - b, mul: (a, b) => a * b, div: (a, b) => a / b, pow: (a, b) => a ** b,
  maximum: (a, b) => Math.max(a, b), minimum: (a, b) => Math.min(a, b),
  bitwise_and: (a, b) => a && b ? 1 : 0, bitwise_or: (a, b) => a || b ? 1 : 0,
  eq: (a, b) => a === b ? 1 : 0, ne: (a, b) => a === b ? 0 : 1, gt: (a, b) => a > b ? 1 : 0, lt: (a, b) => a < b ? 1 : 0,
  where: (c, a, b) => c ? a : b,
};

export const count = shape => shape.reduce((product, size) => product * size, 1);

// The places of an operand in its buffer, in the order of its values.
function placesOf(operand, shape) {
  const places = new Int32Array(count(shape));
  if (typeof operand === "number") return places.map((_, k) => k);
  const [, first, ...strides] = operand;
  if (Array.isArray(first)) return places.map((_, k) => first[k]);
  for (let k = 0; k < places.length; k++) {
    let place = first, rest = k;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      place += strides[axis] * (rest % shape[axis]);
      rest = Math.floor(rest / shape[axis]);
    }
    places[k] = place;
  }
  return places;
}

export class Program {
  constructor(source, weights) {
    this.buffers = source.sizes.map(size => new Float32Array(size));
    for (const [buffer, offset, length] of source.constants) this.buffers[buffer] = weights.subarray(offset, offset + length);
    this.arguments = Object.entries(source.arguments).map(([name, buffer]) => [name, this.buffers[buffer]]);
    this.results = Object.entries(source.results).map(([name, [operand, shape]]) => ({ name, ...this.operand(operand, shape) }));
    this.steps = source.steps.map(step => this.step(step));
  }

  // Results by name. They are copies, as are the arguments.
  run(named) {
    for (const [name, buffer] of this.arguments) {
      const values = named[name]; // of one row, or of all
      for (let k = 0; k < buffer.length; k += values.length) buffer.set(values, k);
    }
    for (const step of this.steps) step();
    return Object.fromEntries(this.results.map(({ name, data, places }) => [name, Float32Array.from(places, place => data[place])]));
  }

  operand(operand, shape) {
    return { data: this.buffers[typeof operand === "number" ? operand : operand[0]], places: placesOf(operand, shape) };
  }

  step([kind, buffer, ...rest]) {
    const out = this.buffers[buffer];
    if (kind === "product") return product(out, this.buffers[rest[0]], this.buffers[rest[1]], ...rest.slice(2));
    if (kind === "rows") {
      const [table, index, block] = [this.buffers[rest[0]], this.buffers[rest[1]], rest[2]];
      return () => index.forEach((row, k) => out.set(table.subarray(row * block, (row + 1) * block), k * block));
    }
    const [shape, first, last] = rest;
    if (kind in MAPS) return mapped(MAPS[kind], out, ...rest.slice(1).map(part => this.operand(part, shape)));
    const { data, places } = this.operand(first, shape);
    if (kind === "put") {
      const target = placesOf(last, shape);
      return () => target.forEach((place, k) => { out[place] = data[places[k]]; });
    }
    return () => { // any, mean, sum
      for (let row = 0; row < out.length; row++) {
        let total = 0;
        for (let k = row * last; k < (row + 1) * last; k++) total += data[places[k]];
        out[row] = kind === "mean" ? total / last : kind === "any" ? +(total > 0) : total;
      }
    };
  }
}

// Products of matrices [m, k] and [k, n].
function product(out, a, b, batches, m, k, n) {
  return () => {
    out.fill(0);
    for (let row = 0; row < batches * m; row++) {
      let i = 0, from = Math.floor(row / m) * k * n;
      const source = row * k, target = row * n;
      for (; i + 3 < k; i += 4, from += 4 * n) { // four rows at once, so that fewer sums are stored
        const w = a[source + i], x = a[source + i + 1], y = a[source + i + 2], z = a[source + i + 3];
        for (let j = 0, p = from; j < n; j++, p++) out[target + j] += w * b[p] + x * b[p + n] + y * b[p + 2 * n] + z * b[p + 3 * n];
      }
      for (; i < k; i++, from += n) {
        for (let j = 0; j < n; j++) out[target + j] += a[source + i] * b[from + j];
      }
    }
  };
}

function mapped(f, out, a, b, c) {
  const x = a.data, xs = a.places;
  if (!b) return () => { for (let k = 0; k < out.length; k++) out[k] = f(x[xs[k]]); };
  const y = b.data, ys = b.places;
  if (!c) return () => { for (let k = 0; k < out.length; k++) out[k] = f(x[xs[k]], y[ys[k]]); };
  const z = c.data, zs = c.places;
  return () => { for (let k = 0; k < out.length; k++) out[k] = f(x[xs[k]], y[ys[k]], z[zs[k]]); };
}

// Numbers that were packed in base64, compressed.
export async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Float32Array(await new Response(stream).arrayBuffer());
}
