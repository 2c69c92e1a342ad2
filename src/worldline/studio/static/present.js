// The present: a step of an episode, or typed values, with the inputs that follow it and the question about the future.
import { useRef } from "preact/hooks";
import { api, seg } from "studio/api.js";
import { byRole, cell, column, curves, timeAxis } from "studio/signals.js";
import { go, useAsked, useGet, useLog, useRarely, useWorld } from "studio/state.js";

export const MAX_STEPS = 2000;
const POINTS = 5000, OVERVIEW = 600;

export const episodePath = (log, number) => `v1/logs/${seg(log)}/episodes/${number}`;

// Runs of equal values as [[offset, value], ...] for the URL, and back.
export const toRuns = values => values.flatMap((value, k) => k && value === values[k - 1] ? [] : [[k, +value.toPrecision(6)]]);
export function fromRuns(runs, steps) {
  const values = [];
  for (let k = 0, run = 0; k < steps; k++) {
    while (run + 1 < runs.length && runs[run + 1][0] <= k) run++;
    values.push(runs[run][1]);
  }
  return values;
}

// Everything that a view of one present needs; `ready` is false until it is loaded. `inside`: the future ends with the log.
export function usePresent({ world, log, episode, at, steps, edits, start, inside = false }) {
  const view = useWorld(world), logView = useLog(log);
  const card = view.value?.card, inLog = Boolean(log) && episode !== undefined;
  const path = inLog ? episodePath(log, episode) : null;
  const marked = logView.value && curves(byRole(logView.value.schema, "observation"))[0];
  const overview = useGet(path && logView.value ? `${path}?points=${OVERVIEW}${marked ? `&signals=${seg(marked.signal.name)}` : ""}` : null);
  const total = overview.value?.num_steps;
  const latest = inside ? Math.max(0, total - 1) : total;
  const now = total === undefined ? undefined : Math.min(at ?? Math.max(Math.min(card?.context ?? 1, total), Math.floor(total / 3)), latest);
  const asked = Math.min(MAX_STEPS, steps ?? (Math.min(card?.band_horizon || 24, 200)));
  const horizon = inside && total > now ? Math.min(asked, total - now) : asked;
  const back = card ? Math.max(card.context, Math.ceil(horizon / 2)) : 0;
  const first = now === undefined ? 0 : Math.max(0, now - back), last = now === undefined ? 0 : Math.min(total, now + horizon);
  const rows = useGet(card && now !== undefined ? `${path}?first=${first}&last=${last}&points=${POINTS}` : null);
  const error = view.error ?? logView.error ?? overview.error ?? rows.error;
  const base = { card, schema: card?.schema, path, horizon, error, busy: rows.busy || overview.busy, overview: overview.value, marked };
  if (!card) return { ...base, ready: false };
  if (!inLog) return { ...base, ...typed(card, horizon, edits, start), ready: true };
  if (!rows.value || rows.value.first !== first) return { ...base, ready: false, now, total };
  return { ...base, ...logged(card, rows.value, now, horizon, edits), now, total, ready: true };
}

// The last present of the same episode and world while the next one is loading, so that a view does not flicker.
export function useSteady(present) {
  const last = useRef(present);
  if (present.ready || last.current.path !== present.path || last.current.card !== present.card) last.current = present;
  return { ...last.current, error: present.error };
}

function logged(card, data, now, horizon, edits) {
  const inputs = {};
  for (const role of ["action", "exogenous"]) {
    const rows = role === "action" ? data.actions : data.exogenous;
    for (const signal of byRole(card.schema, role)) {
      const known = rows?.[signal.name] ?? [], after = [];
      for (let k = 0; k < horizon; k++) after.push(known[now - data.first + k] ?? after.at(-1) ?? known.findLast(row => row != null) ?? middle(signal));
      inputs[signal.name] = { signal, role, before: known.slice(0, now - data.first), logged: after };
    }
  }
  const observed = {};
  for (const signal of byRole(card.schema, "observation")) observed[signal.name] = data.observations?.[signal.name] ?? [];
  return { first: data.first, observed, axis: timeAxis(data.step_s ?? card.schema.step_s, horizon), ...edited(inputs, edits, horizon) };
}

// A present of typed values, for worlds without a log.
function typed(card, horizon, edits, start = {}) {
  const observed = {}, inputs = {};
  for (const signal of byRole(card.schema, "observation")) {
    if (signal.kind !== "image") observed[signal.name] = [start[signal.name] ?? middle(signal)];
  }
  for (const role of ["action", "exogenous"]) {
    for (const signal of byRole(card.schema, role)) {
      inputs[signal.name] = { signal, role, before: [], logged: Array.from({ length: horizon }, () => middle(signal)) };
    }
  }
  return { first: 0, now: 0, total: 0, path: null, observed, axis: timeAxis(card.schema.step_s, horizon), ...edited(inputs, edits, horizon) };
}

export function middle(signal) {
  if (signal.kind === "discrete") return 0;
  const ends = k => [signal.low?.[k], signal.high?.[k]].map(end => Number.isFinite(end) ? end : null);
  return Array.from({ length: signal.shape[0] }, (_, k) => {
    const [low, high] = ends(k);
    return low !== null && high !== null ? (low + high) / 2 : Math.max(low ?? 0, Math.min(high ?? 0, 0));
  });
}

function edited(inputs, edits = {}, horizon) {
  const lanes = [];
  for (const { signal, role, before, logged: rows } of Object.values(inputs)) {
    for (const curve of curves([signal])) {
      const plain = column(rows, curve.index), runs = edits[curve.key];
      lanes.push({ curve, role, before: column(before, curve.index), logged: plain, future: runs ? fromRuns(runs, horizon) : plain, isEdited: Boolean(runs) });
    }
  }
  return { lanes, isEdited: lanes.some(lane => lane.isEdited) };
}

// The inputs as the service takes them: {name: [T][component]}; null if they are those of the log.
export function inputsOf(present, role, { plain = false } = {}) {
  const lanes = present.lanes.filter(lane => lane.role === role), values = {};
  for (const { curve, future, logged: rows } of lanes) {
    const shown = plain ? rows : future;
    if (curve.index === null) values[curve.signal.name] = shown;
    else shown.forEach((value, k) => { ((values[curve.signal.name] ??= [])[k] ??= [])[curve.index] = value; });
  }
  return values;
}

// The question about the future of a present: path and body.
export function question(world, present, { verb = "predict", plain = false, ...rest } = {}) {
  const inputs = {};
  for (const [role, name] of [["action", "actions"], ["exogenous", "exogenous"]]) {
    const lanes = present.lanes.filter(lane => lane.role === role);
    const needed = !present.path || (!plain && lanes.some(lane => lane.isEdited));
    const isAnswered = verb === "plan" ? role === "action" : verb === "what_if" && role === "exogenous"; // by the world, by the episode
    if (needed && (lanes.length || role === "action") && !isAnswered) inputs[name] = inputsOf(present, role, { plain });
  }
  const body = { ...inputs, ...rest };
  if (present.path) return [`${present.path}:${verb}?world=${seg(world)}&at=${present.now}&steps=${present.horizon}`, body];
  const observations = Object.fromEntries(Object.entries(present.observed).map(([name, rows]) => [name, rows.slice(0, 1)]));
  return [`v1/worlds/${seg(world)}:${verb}`, { history: { observations, actions: {} }, ...body }];
}

// The lines of a chart: a curve as logged, and a path from the present on.
export function logLines({ observed, first, now, axis }, { signal, index }, real = "log") {
  const ys = column(observed[signal.name], index), split = now - first;
  const line = (label, style, from, to) => {
    const y = ys.slice(from, to);
    return { label, style, x: y.map((_, k) => (first + from + k) * axis.scale), y };
  };
  const past = line("measured", "real", 0, split + 1);
  return ys.length > split + 1 ? [past, line(real, "soft", split)] : [past];
}
export function aheadLine({ observed, first, now, axis }, { signal, index }, rows, line, edges = {}) {
  const start = cell(observed[signal.name]?.[now - first], index) ?? null;
  const path = values => values ? [start, ...column(values, index)] : [];
  const x = Array.from({ length: rows.length + 1 }, (_, k) => (now + k) * axis.scale);
  return { ...line, x, y: path(rows), low: path(edges.low), high: path(edges.high) };
}

export const drawsPictures = card => card.abilities.includes("decodes") || card.predicts.some(name => card.schema.signals.find(signal => signal.name === name)?.kind === "image");

// A question about a future: [subject, path, body].
const asking = (world, present, options) => [`${world} ${present.path} ${present.horizon}`, ...question(world, present, options)];

export function useFuture(world, present, options = {}) {
  const [subject, path, body] = present.ready ? asking(world, present, options) : [""];
  return useAsked(path ? `${path} ${JSON.stringify(body)}` : null, () => api.post(path, body), subject);
}

// The pictures of a future. While an input is dragged they follow a few times a second, so that curves do not wait for them.
export function usePictures(world, present) {
  const asked = present.ready && drawsPictures(present.card) ? asking(world, present, { images: true }) : null;
  const key = useRarely(asked && JSON.stringify(asked)), [subject, path, body] = key ? JSON.parse(key) : [""];
  const { value } = useAsked(key, () => api.post(path, body), subject);
  return asked?.[0] === subject ? value?.images : undefined; // not those of the episode before
}

export function edit(edits, curve, values) {
  go({ edits: { ...edits, [curve.key]: toRuns(values) } });
}

// Errors of the predicted curve against the log, and the share of the log inside the band.
export function compare(forecast, rows, index) {
  let count = 0, squares = 0, inside = 0;
  rows.forEach((row, k) => {
    const real = cell(row, index), mean = cell(forecast.mean[k], index);
    if (real == null || mean == null) return;
    const low = cell(forecast.low?.[k], index), high = cell(forecast.high?.[k], index);
    count++;
    squares += (mean - real) ** 2;
    inside += (low == null || real >= low) && (high == null || real <= high) ? 1 : 0;
  });
  return count ? { rmse: Math.sqrt(squares / count), inside: inside / count, count } : null;
}
