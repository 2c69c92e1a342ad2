// Runs programs of worldline/studio/play_program.py: operations on arrays of numbers with fixed sizes.

// Largest error 1.5e-7. Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - tail * Math.exp(-x * x));
}

const sigmoid = x => 1 / (1 + Math.exp(-x));
const softplus = x => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

const MAPS = {
  Abs: Math.abs, Atan: Math.atan, Cos: Math.cos, Exp: Math.exp, Floor: Math.floor, Log: Math.log, Sign: Math.sign,
  Sin: Math.sin, Sqrt: Math.sqrt, Tanh: Math.tanh, Trunc: Math.trunc, Erf: erf, Sigmoid: sigmoid, Softplus: softplus,
  Gelu: x => x * 0.5 * (1 + erf(x * Math.SQRT1_2)), Neg: x => -x, Not: x => x ? 0 : 1, Reciprocal: x => 1 / x,
  Relu: x => Math.max(x, 0), Truth: x => x ? 1 : 0,
  Add: (a, b) => a + b, Sub: (a, b) => a - b, Mul: (a, b) => a * b, Div: (a, b) => a / b, Pow: (a, b) => a ** b,
  Max: (a, b) => Math.max(a, b), Min: (a, b) => Math.min(a, b), Mod: (a, b) => a - b * Math.floor(a / b),
  And: (a, b) => a && b ? 1 : 0, Or: (a, b) => a || b ? 1 : 0, Equal: (a, b) => a === b ? 1 : 0,
  Greater: (a, b) => a > b ? 1 : 0, GreaterOrEqual: (a, b) => a >= b ? 1 : 0,
  Less: (a, b) => a < b ? 1 : 0, LessOrEqual: (a, b) => a <= b ? 1 : 0,
  Where: (c, a, b) => c ? a : b,
};

const REDUCTIONS = {
  ReduceMax: [Math.max, -Infinity], ReduceMin: [Math.min, Infinity],
  ReduceSum: [(a, b) => a + b, 0], ReduceMean: [(a, b) => a + b, 0],
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
    if (kind === "Product") return this.product(out, ...rest);
    if (kind === "Rows") {
      const [table, index, block] = [this.buffers[rest[0]], this.buffers[rest[1]], rest[2]];
      return () => index.forEach((row, k) => out.set(table.subarray(row * block, (row + 1) * block), k * block));
    }
    const [shape, ...operands] = rest, [a, b, c] = operands.filter(part => kind in MAPS || part !== operands.at(1)).map(part => this.operand(part, shape));
    if (kind === "Put") {
      const target = placesOf(operands[1], shape);
      return () => target.forEach((place, k) => { out[place] = a.data[a.places[k]]; });
    }
    if (kind in REDUCTIONS) {
      const [combine, start] = REDUCTIONS[kind], size = operands[1], scale = kind === "ReduceMean" ? 1 / size : 1;
      return () => {
        for (let row = 0; row < out.length; row++) {
          let total = start;
          for (let k = row * size; k < (row + 1) * size; k++) total = combine(total, a.data[a.places[k]]);
          out[row] = total * scale;
        }
      };
    }
    return mapped(MAPS[kind], out, a, b, c);
  }

  // Products of matrices [m, k] and [k, n], from these places in their buffers.
  product(out, left, right, m, k, n, starts, others) {
    const [a, b] = [this.buffers[left], this.buffers[right]];
    return () => {
      out.fill(0);
      for (let batch = 0; batch < starts.length; batch++) {
        for (let row = 0; row < m; row++) {
          const target = (batch * m + row) * n, source = starts[batch] + row * k;
          let i = 0, from = others[batch];
          for (; i + 3 < k; i += 4, from += 4 * n) { // four rows at once, so that fewer sums are stored
            const w = a[source + i], x = a[source + i + 1], y = a[source + i + 2], z = a[source + i + 3];
            for (let j = 0, p = from; j < n; j++, p++) out[target + j] += w * b[p] + x * b[p + n] + y * b[p + 2 * n] + z * b[p + 3 * n];
          }
          for (; i < k; i++, from += n) {
            const factor = a[source + i];
            for (let j = 0; j < n; j++) out[target + j] += factor * b[from + j];
          }
        }
      }
    };
  }
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
