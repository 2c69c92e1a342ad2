// A world in the page: answers the questions of the studio as a service does, from weights and example episodes.
import { ApiError } from "studio/api.js";
import { count, Program, unpacked } from "studio/program.js";
import { clamp } from "studio/signals.js";

const HISTORY = 128; // observations before a present, as for a service
const WIDENING = 20, TRUSTED_EXCESS = 0.05, MAX_EXCESS = 0.1, FAR_RANGES = 2; // as in worldline/world/logged_range.py
const SEARCH_S = 2, ROUNDS = 12, CANDIDATES = 48, ELITES = 8, PAUSE_MS = 30;
const NO_ABDUCTION = "A page infers no hidden causes. Both futures are predicted from the same present.";

const refuse = (detail, code = "unsupported") => { throw new ApiError(code, detail); };
const list = value => Array.isArray(value) ? value : [value];
const isKnown = row => row !== null && row !== undefined && list(row).every(value => value !== null && !Number.isNaN(value));
const pick = (group, of) => Object.fromEntries(Object.entries(group ?? {}).map(([name, rows]) => [name, of(rows, name)]));
const sliced = (group, first, last) => pick(group, rows => rows.slice(first, last));
const mean = values => values.reduce((sum, value) => sum + value, 0) / values.length;
const least = rows => Object.values(rows)[0]?.length ?? 0;

class World {
  constructor(data, weights) {
    Object.assign(this, { card: data.card, bands: data.bands, ranges: data.ranges, tolerance: data.tolerance, smallest: data.smallest_trust });
    this.programs = Object.fromEntries(Object.entries(data.programs).map(([name, source]) => [name, new Program(source, weights)]));
    const { sizes, arguments: places } = data.programs.step;
    this.noise = Object.entries(data.noise).map(([name, [offset, length]]) => [name, weights.subarray(offset, offset + length), sizes[places[name]]]);
    this.schema = this.card.schema;
    this.signal = Object.fromEntries(this.schema.signals.map(signal => [signal.name, signal]));
    this.actions = this.schema.signals.filter(signal => signal.role === "action");
    this.exogenous = this.schema.signals.filter(signal => signal.role === "exogenous");
  }

  belief({ observations, actions, exogenous }) {
    let belief = {};
    for (let now = 0; now < least(observations); now++) {
      const known = { ...belief, inputs: this.inputs(actions, exogenous, now - 1), observed: [] };
      for (const name of this.card.inputs) {
        const row = observations[name]?.[now], seen = isKnown(row);
        known[`observation.${name}`] = seen ? list(row) : new Array(count(this.signal[name].shape)).fill(0);
        known.observed.push(seen ? 1 : 0);
      }
      belief = next(this.programs[now ? "update" : "start"].run(known));
    }
    return belief;
  }

  // All inputs of a step, as the networks take them.
  inputs(actions, exogenous, now) {
    return [...this.actions, ...this.exogenous].flatMap(({ name, kind, num_values: size }) => {
      const row = now < 0 ? undefined : (actions[name] ?? exogenous?.[name])?.[now];
      if (now >= 0 && !isKnown(row)) refuse(`The input ${name} is missing at step ${now}.`, "input");
      return kind !== "discrete" ? list(row ?? []) : Array.from({ length: size }, (_, k) => k === row ? 1 : 0);
    });
  }

  // The predicted signals of each step, by name: [T][component], without bounds.
  paths(belief, actions, exogenous, steps) {
    const paths = Object.fromEntries(this.card.predicts.map(name => [name, []]));
    for (let now = 0; now < steps; now++) {
      const after = this.programs.step.run({ ...belief, ...this.draws(now), inputs: this.inputs(actions, exogenous, now) });
      let first = 0;
      for (const name of this.card.predicts) {
        const size = count(this.signal[name].shape);
        paths[name].push(Array.from(after.signals.subarray(first, first += size)));
      }
      belief = next(after);
    }
    return paths;
  }

  // The draws of a step, the same ones in all predictions.
  draws(now) {
    return Object.fromEntries(this.noise.map(([name, values, size]) => [name, values.subarray(now * size % values.length, now * size % values.length + size)]));
  }

  predict(present, { actions, exogenous, level = null, num_samples: samples = 0, images = false }) {
    if (samples || images) refuse("A page draws no sampled paths and no images.");
    const steps = least(actions), raw = this.paths(present.belief, actions, exogenous, steps);
    const inputs = { ...actions, ...exogenous }, outside = [];
    for (let now = 0, most = present.excess; now < steps; now++) outside.push(most = Math.max(most, this.excess(inputs, now)));
    const chosen = level ?? this.bands?.default ?? 0.9;
    const signals = Object.fromEntries(this.card.predicts.map(name => [name, this.forecast(name, raw[name], chosen, present.length, outside)]));
    const calibrated = Boolean(this.bands);
    return { signals, level: chosen, trust: this.trust(present.trust, raw, inputs, steps), calibrated, images: {}, schema: this.schema };
  }

  forecast(name, path, level, length, outside) {
    const { kind, low, high, period } = this.signal[name], clip = limits(low, high, period);
    const mean = path.map(row => kind === "discrete" ? row[0] : row.map(clip));
    const table = this.bands?.histories.findLast(part => part.from <= length)?.signals[name];
    if (!table) return { mean, low: null, high: null, horizon: 0, samples: null };
    const place = this.bands.levels.findIndex(known => Math.abs(known - level) < 1e-9);
    if (place < 0) refuse(`This page has bands of ${this.bands.levels.map(known => `${+(100 * known).toFixed(1)} %`).join(", ")}. Choose one of them.`);
    const score = table.scores[place][Math.min(path.length, table.scale.length) - 1];
    const edge = sign => mean.map((row, t) => row.map((value, k) => {
      if (score === null || t >= table.scale.length) return null;
      return clip(value + sign * score * table.scale[t][k] * (1 + WIDENING * outside[t]), k);
    }));
    return { mean, low: edge(-1), high: edge(1), horizon: Math.min(table.horizon, path.length), samples: null };
  }

  // The largest share of its range by which a value of row `now` is outside of it.
  excess(values, now) {
    let largest = 0;
    for (const [name, [low, high]] of Object.entries(this.ranges)) {
      const row = values[name]?.[now];
      if (isKnown(row)) list(row).forEach((value, k) => { largest = Math.max(largest, beyond(value, low[k], high[k])); });
    }
    return largest;
  }

  trust(start, paths, inputs, steps) {
    if (start === null) return null;
    let most = 0;
    for (let now = 0; now < steps; now++) most = Math.max(most, this.excess(inputs, now));
    for (const [name, [low, high]] of Object.entries(this.ranges)) {
      const isFar = paths[name]?.some(row => row.some((value, k) => low[k] !== high[k] && !(beyond(value, low[k], high[k]) <= FAR_RANGES)));
      if (isFar) most = Infinity;
    }
    const share = clamp((MAX_EXCESS - most) / (MAX_EXCESS - TRUSTED_EXCESS), 0, 1);
    return Math.max(this.smallest, share ? share * start : 0);
  }

  // A present: its belief, and what trust and bands depend on.
  present(history, trust) {
    const length = least(history.observations), observed = Object.fromEntries(this.card.inputs.map(name => [name, history.observations[name]]));
    const before = { ...history.actions, ...history.exogenous };
    let excess = 0;
    for (let now = Math.max(0, length - this.card.context); now < length; now++) {
      excess = Math.max(excess, this.excess(observed, now), now ? this.excess(before, now - 1) : 0);
    }
    return { belief: this.belief(history), excess, trust, length };
  }

  // The cost of a path, in the terms of the goal.
  costs({ targets = {}, tolerance = {}, costs = [], in_steps: inSteps, discount = 1, last_only: lastOnly }, constraints = []) {
    if (constraints.length || costs.length || inSteps) refuse("A page plans to target values only. Remove limits, prices and boxes, or open the studio.");
    const wanted = Object.entries(targets).map(([name, value]) => {
      const scale = list(tolerance[name] ?? this.tolerance[name] ?? refuse(`${name} is not predicted, or has no tolerance. Set another target.`));
      return [name, list(value).map((target, k) => [target, scale[k] ?? scale[0]]), this.signal[name].period];
    });
    if (!wanted.length) refuse("The goal has no target. Set one.", "input");
    return paths => {
      let total = 0;
      const steps = least(paths);
      for (let t = lastOnly ? steps - 1 : 0; t < steps; t++) {
        for (const [name, parts, period] of wanted) {
          const errors = parts.map(([target, scale], k) => (shortest(paths[name][t][k] - target, period) / scale) ** 2);
          total += discount ** t * mean(errors);
        }
      }
      return total;
    };
  }

  score(present, { goal, constraints, actions, exogenous }) {
    const costOf = this.costs(goal, constraints), candidates = Object.values(actions)[0].map((_, n) => pick(actions, rows => rows[n]));
    const all = candidates.map(own => [this.paths(present.belief, own, exogenous, least(own)), { ...own, ...exogenous }]);
    const trusts = all.map(([paths, inputs]) => this.trust(present.trust, paths, inputs, least(paths)));
    return { cost: all.map(([paths]) => costOf(paths)), violation: all.map(() => []), trust: trusts.includes(null) ? null : Math.min(...trusts), schema: this.schema };
  }

  // A search by cross-entropy: draws plans, and continues around the best ones.
  async plan(present, { goal, constraints, horizon, exogenous, proposals, budget_s: budget, seed = 0, min_trust: smallest = 0 }) {
    const costOf = this.costs(goal, constraints), axes = this.actions.flatMap(({ name, kind, low, high, shape, num_values: size }) =>
      Array.from({ length: count(shape) }, (_, k) => {
        const [from, to] = kind === "discrete" ? [0, size - 1] : [low?.[k], high?.[k]];
        if (!Number.isFinite(from) || !Number.isFinite(to)) refuse(`The action ${name} has no bounds, so no plan can be searched.`);
        return { name, k, kind, from, size: to - from };
      }));
    const read = draw => {
      const actions = {};
      axes.forEach(({ name, k, kind, from, size }, axis) => draw[axis].forEach((share, t) => {
        const value = from + size * clamp(share, 0, 1);
        if (kind === "discrete") (actions[name] ??= [])[t] = Math.round(value);
        else ((actions[name] ??= [])[t] ??= [])[k] = value;
      }));
      return actions;
    };
    const scored = draw => ({ draw, cost: costOf(this.paths(present.belief, read(draw), exogenous, horizon)) });
    const started = performance.now(), ends = started + 1000 * Math.min(budget ?? SEARCH_S, SEARCH_S), normal = normals(seed);
    let centre = axes.map(({ name, k, from, size }) => Array.from({ length: horizon }, (_, t) => proposals ? (list(proposals[name][0][t])[k] - from) / size : 0.5));
    let spread = axes.map(() => new Array(horizon).fill(proposals ? 0.2 : 0.4)), best = scored(centre), paused = started;
    for (let round = 0; round < ROUNDS && performance.now() < ends; round++) {
      const drawn = [best];
      while (drawn.length < CANDIDATES && performance.now() < ends) {
        drawn.push(scored(centre.map((row, axis) => {
          let noise = normal(); // correlated in time, so that plans are smooth
          return row.map((value, t) => value + spread[axis][t] * (noise = t ? 0.9 * noise + 0.44 * normal() : noise));
        })));
        if (performance.now() - paused < PAUSE_MS) continue;
        await new Promise(resolve => setTimeout(resolve)); // the page stays alive
        paused = performance.now();
      }
      const elites = drawn.sort((one, other) => one.cost - other.cost).slice(0, ELITES);
      best = elites[0];
      const overElites = of => axes.map((_, axis) => centre[axis].map((_, t) => mean(elites.map(({ draw }) => of(draw[axis][t], axis, t)))));
      centre = overElites(value => value);
      spread = overElites((value, axis, t) => (value - centre[axis][t]) ** 2).map(row => row.map(value => Math.max(0.02, Math.sqrt(value))));
    }
    const actions = read(best.draw), prediction = this.predict(present, { actions, exogenous }), { trust } = prediction;
    const answer = { actions, status: "searched", cost: best.cost, violation: [], trust, reason: "", elapsed_s: (performance.now() - started) / 1000, bound: null, prediction, schema: this.schema };
    if (!smallest || trust >= smallest) return answer;
    return { ...answer, actions: pick(actions, () => []), status: "refused", cost: null, reason: `The trust in the expected path is ${trust}, below ${smallest}.`, prediction: null };
  }
}

const next = results => Object.fromEntries(Object.entries(results).map(([name, part]) => [name.replace("next.", "belief."), part]));
const shortest = (difference, period) => period ? difference - period * Math.round(difference / period) : difference;

function limits(low, high, period) {
  if (period) return value => value;
  return (value, k) => clamp(value, low?.[k], high?.[k]);
}

function beyond(value, low, high) {
  const size = Math.max(Math.abs(low), Math.abs(high)), unit = high > low ? high - low : 1e-6 * (1 + size);
  return (Math.max(low - value, value - high) - 2 ** -23 * size) / unit;
}

// Standard normal numbers. Sources: Marsaglia 2003, Xorshift RNGs, for uniform numbers; Box and Muller 1958.
function normals(seed) {
  let state = (seed + 1) * 2654435761 >>> 0 || 1;
  const uniform = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

// What a service would answer: `get(path)` and `post(path, body)`.
export async function createLocalWorld(data) {
  const world = new World(data, await unpacked(data.weights)), { log } = data;
  const summary = { name: data.name, reference: null, version: null, engine: world.card.engine };
  const known = new Map(); // presents of episodes

  function episodeOf(text) {
    return log.episodes[+text] ?? refuse(`There is no episode ${text}. This page has ${log.episodes.length}.`, "not_found");
  }

  function presentOf(episode, at) {
    const key = `${episode.number} ${at}`, first = Math.max(0, at + 1 - Math.max(HISTORY, world.card.context + 1));
    if (!known.has(key)) {
      const { observations, actions, exogenous } = episode;
      const history = { observations: sliced(observations, first, at + 1), actions: sliced(actions, first, at), exogenous: sliced(exogenous, first, at) };
      known.set(key, world.present(history, episode.trust?.[at] ?? null));
    }
    return known.get(key);
  }

  // The call with what the episode knows, as a service completes it.
  function completed(episode, at, steps, body, verb) {
    const [sent] = Object.values(body.actions ?? {}), rows = verb === "score" ? sent?.[0] : sent;
    const wanted = rows?.length || body.horizon || Math.min(steps, episode.num_steps - at);
    if (wanted < 1) refuse(`No actions are logged after observation ${at}. Choose an earlier step.`, "input");
    const held = group => pick(group, rows => Array.from({ length: wanted }, (_, t) => rows[Math.min(at + t, rows.length - 1)]));
    return { horizon: wanted, ...body, actions: { ...held(episode.actions), ...body.actions }, exogenous: { ...held(episode.exogenous), ...body.exogenous } };
  }

  async function answer(verb, present, body, logged) {
    if (verb === "predict") return world.predict(present, body);
    if (verb === "plan" || verb === "score") return world[verb](present, body);
    if (verb !== "what_if") refuse(`A world in a page does not answer ${verb}. Open it in the studio.`);
    const [other, same] = [body.actions, logged()].map(actions => world.predict(present, { actions, exogenous: body.exogenous }).signals);
    return { signals: pick(other, forecast => forecast.mean), factual: pick(same, forecast => forecast.mean), abduction: "none", reason: NO_ABDUCTION, schema: world.schema };
  }

  function parts(path) {
    const { pathname, searchParams } = new URL(path, "http://page/");
    return [pathname.split("/").slice(2).map(decodeURIComponent), searchParams];
  }

  async function get(path) {
    const [[kind, name, ...rest], query] = parts(path);
    if (kind === "worlds" && !name) return { worlds: [summary] };
    if (kind === "worlds" && !rest.length) return { ...summary, card: world.card, versions: [], aliases: {} };
    if (kind === "worlds" && rest[0] === "pages") return { pages: [] };
    if (kind === "logs" && !name) return { logs: [log.name] };
    if (kind === "logs" && !rest.length) return { name: log.name, schema: world.schema, num_episodes: log.episodes.length, num_steps: log.episodes.reduce((sum, { num_steps: steps }) => sum + steps, 0) };
    if (kind === "logs" && rest.length === 1) {
      const episodes = log.episodes.map(({ number, num_steps, ending, source }) => ({ number, num_steps, ending, source }));
      return { total: episodes.length, episodes: episodes.slice(+(query.get("offset") ?? 0)) };
    }
    if (kind === "logs" && rest.length === 2) return curves(episodeOf(rest[1]), query);
    return refuse("This page does not hold that.", "not_found");
  }

  function curves(episode, query) {
    const first = +(query.get("first") ?? 0), last = Math.min(+(query.get("last") ?? episode.num_steps), episode.num_steps);
    const names = query.get("signals")?.split(","), { number, num_steps } = episode;
    const steps = Array.from({ length: last + 1 - first }, (_, k) => first + k);
    const rows = group => Object.fromEntries(Object.entries(group).filter(([name]) => !names || names.includes(name)).map(([name, values]) => [name, steps.map(step => values[step] ?? null)]));
    return { number, num_steps, first, last, step_s: world.schema.step_s, steps, times: null, observations: rows(episode.observations), actions: rows(episode.actions), exogenous: rows(episode.exogenous), reward: {} };
  }

  async function post(path, body) {
    const [segments, query] = parts(path), [last, verb] = segments.at(-1).split(/:(?=\w+$)/);
    if (segments[0] === "worlds") {
      const { history, ...rest } = body; // without trust, because the page cannot test a history
      return answer(verb, world.present(history ?? refuse("The history is missing.", "input"), null), rest, () => rest.actions);
    }
    const episode = episodeOf(last), at = Math.min(+(query.get("at") ?? 0), episode.num_steps);
    const whole = completed(episode, at, +(query.get("steps") || Math.max(1, world.card.band_horizon)), body, verb);
    return answer(verb, presentOf(episode, at), whole, () => completed(episode, at, least(whole.actions), {}).actions);
  }

  return { get, post };
}
