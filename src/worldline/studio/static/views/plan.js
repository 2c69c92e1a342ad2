// Plan: actions towards goals inside limits, and how they compare with the logged ones.
import { useEffect, useRef, useState } from "preact/hooks";
import { api, seg } from "studio/api.js";
import { Chart, InputLane } from "studio/lane.js";
import { Choice, Code, Failure, html, LogPicture, Segments, Term, Title, Waiting } from "studio/parts.js";
import { aheadLine, fromRuns, inputsOf, question, toRuns, usePresent } from "studio/present.js";
import { byRole, cell, clamp, column, curves, curvesOf, number, rangeOf, withUnit } from "studio/signals.js";
import { go, useAsked, useLog, usePlace } from "studio/state.js";
import { TimePanel } from "studio/time.js";
import { Horizon, Lanes } from "studio/views/imagine.js";

const ENDS = {
  optimal: ["Optimal", "No plan costs less, as far as the world predicts."],
  searched: ["Plan found", "The search ended. There may be better plans."],
  out_of_time: ["Best so far", "The time of the round was over before the search ended."],
  goal_outside_logs: ["Goal outside the log", "The plan approaches the goal as far as the world predicts."],
  infeasible: ["Infeasible", "No sequence that was tried satisfies all constraints. This one violates them least."],
  refused: ["Refused", "The trust is below the smallest accepted value, so there are no actions."],
};
const TOOLS = [["", "nothing"], ["target", "a target"], ["reference", "a curve"]];
const HOLDS = [["mean", "on the expected path"], ["0.5", "with probability 50 %"], ["0.8", "with probability 80 %"],
  ["0.9", "with probability 90 %"], ["wish", "as wishes, at a cost"]];
const ROUNDS = 6, BUDGET_S = 2;

export default function Plan() {
  const place = usePlace(), present = usePresent(place), { card, ready, path } = present, goal = place.goal ?? {};
  const [tool, setTool] = useState(matchMedia("(pointer: coarse)").matches ? "" : "target"), last = useRef(null);
  const set = changes => go({ goal: { ...goal, ...changes, ran: undefined } });
  const frame = useGoalFrame(present, goal.frame);
  const isReady = ready && (goal.frame === undefined || frame.key === frameKey(present, goal.frame) && frame.value);
  const problem = ready ? problemOf(present, goal, frame.value) : null;
  const key = JSON.stringify({ ...place, show: undefined, level: undefined, goal: { ...goal, ran: undefined } });
  const search = useSearch(place.world, present, problem, goal, key, isReady && problem.isComplete), plan = search.plans.at(-1);
  const versus = useLoggedActions(place.world, present, problem, search.busy ? null : plan, key);
  return html`<div class="page form"><aside>${ready && html`<${Wishes} present=${present} goal=${goal} set=${set} />
      <${KeepOut} present=${present} goal=${goal} set=${set} plan=${plan} /><${Options} card=${card} goal=${goal} set=${set} />`}</aside>
    <section><${Failure} error=${present.error ?? frame.error} />
      ${!card ? !present.error && html`<${Waiting} />` : html`<${Horizon} present=${present}><${Episode} />
        <span class="choice"><span class="soft">Pointer sets</span><${Segments} label="What the pointer sets" value=${tool} options=${TOOLS} onChange=${setTool} /></span>
        ${search.busy ? html`<button onClick=${search.stop}>Stop</button>`
      : html`<button class="main" disabled=${!isReady || !problem.isComplete} onClick=${() => search.start(goal.rounds ?? ROUNDS)}>Plan</button>`}<//>
        ${path && html`<${TimePanel} present=${present} />`}<${Failure} error=${search.error} />
        ${ready && html`<${Lanes} present=${present} prediction=${plan?.prediction} dreamed="plan" more=${linesOf(present, goal, search.plans, versus.value)}
            draw=${tool && (curve => drawing(present, goal, set, tool, curve, last))} />
          <${Actions} present=${present} plan=${plan} />`}`}</section>
    <aside aria-live="polite">${ready && html`<${Outcome} present=${present} problem=${problem} search=${search} versus=${versus} />`}</aside></div>`;
}

const vectors = ({ schema, card }) => schema.signals.filter(signal => card.predicts.includes(signal.name) && signal.kind !== "image");
const constant = target => Array.isArray(target) ? undefined : target;
const overTime = (target, steps) => fromRuns(Array.isArray(target) ? target : [[0, target]], steps);
const boxText = ({ x, y }) => `keep-out box of ${x.replaceAll("_", " ")} and ${y.replaceAll("_", " ")}`;

// The goal and the constraints as the service takes them, with the names of the constraints.
function problemOf(present, goal, frame) {
  const { horizon, observed, schema } = present, targets = { ...frame }, tolerance = {}, costs = [], names = [], constraints = [];
  const constrain = (name, rule) => {
    names.push(name);
    constraints.push(+goal.hold ? { rule: "Chance", constraint: rule, level: +goal.hold } : rule);
  };
  for (const signal of vectors(present)) {
    const own = curvesOf(signal), pick = group => own.map(curve => goal[group]?.[curve.key] ?? null), isSet = values => values.some(value => value !== null);
    const wanted = pick("targets"), low = pick("low"), high = pick("high"), near = goal.tolerance?.[signal.name];
    const [least, most] = rangeOf(own.map(curve => column(observed[signal.name], curve.index)));
    const unit = near ?? (most - least) / 20; // a cost needs a tolerance
    const isWhole = !wanted.includes(null);
    if (isWhole && !frame && wanted.every(target => constant(target) !== undefined)) {
      targets[signal.name] = signal.kind === "discrete" ? wanted[0] : wanted;
      if (near) tolerance[signal.name] = near;
    } else if (isSet(wanted)) { // Within has no effect on components without a target
      const paths = wanted.map(target => overTime(target, horizon)), rows = paths[0].map((_, k) => paths.map(values => values[k]));
      costs.push({ rule: isWhole ? "Track" : "Within", signal: signal.name, ...(isWhole ? { reference: rows } : { low: rows, high: rows }), tolerance: unit });
    }
    if (goal.hold === "wish" && (isSet(low) || isSet(high))) costs.push({ rule: "Within", signal: signal.name, low, high, tolerance: unit });
    else {
      if (isSet(low)) constrain(`${own[0].label} at least`, { rule: "AtLeast", signal: signal.name, bound: low });
      if (isSet(high)) constrain(`${own[0].label} at most`, { rule: "AtMost", signal: signal.name, bound: high });
    }
  }
  for (const signal of byRole(schema, "action")) {
    const price = curvesOf(signal).map(curve => goal.price?.[curve.key] ?? 0), change = goal.change?.[signal.name];
    if (price.some(Boolean)) costs.push({ rule: "Price", signal: signal.name, price });
    if (change) costs.push({ rule: "Change", signal: signal.name, tolerance: change });
  }
  for (const box of goal.boxes ?? []) {
    const faces = { low: {}, high: {} };
    for (const [k, curve] of [box.x, box.y].map(key => curves(vectors(present)).find(other => other.key === key)).entries()) {
      for (const end of ["low", "high"]) (faces[end][curve.signal.name] ??= Array(curve.signal.shape[0]).fill(null))[curve.index] = box[end][k];
    }
    constrain(boxText(box), { rule: "KeepOut", ...faces });
  }
  return { goal: { targets, tolerance, costs }, constraints, names, isComplete: Object.keys(targets).length + costs.length > 0 };
}

// A frame of the log as a goal: what the world observes at this step, {signal: values}.
const frameKey = ({ path }, step) => `${path} ${step}`;
function useGoalFrame({ path, card, schema, ready }, step) {
  const ask = async () => {
    const { observations } = await api.get(`${path}?first=${step}&last=${step}`), values = {};
    for (const signal of byRole(schema, "observation").filter(({ name }) => card.inputs.includes(name))) {
      const source = signal.kind === "image" && await api.picture(`${path}/frames/${seg(signal.name)}?steps=${step}&height=0`);
      values[signal.name] = source ? await pixels(source, signal.shape) : observations[signal.name][0];
    }
    return values;
  };
  return useAsked(ready && path && step !== undefined ? frameKey({ path }, step) : null, ask, path ?? "");
}

async function pixels(source, shape) {
  const [height, width, channels] = shape, image = new Image(), canvas = new OffscreenCanvas(width, height).getContext("2d");
  image.src = source;
  await image.decode();
  canvas.drawImage(image, 0, 0);
  const bytes = canvas.getImageData(0, 0, width, height).data.filter((_, k) => k % 4 < channels);
  return { dtype: "uint8", shape, data: btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join("")) };
}

// Rounds of a search: each begins with the plan of the round before. Another `key` ends it.
function useSearch(world, present, problem, goal, key, canStart) {
  const [state, set] = useState({ plans: [] }), run = useRef(0), isRestored = useRef(!goal.ran);
  const ask = (previous, round) => {
    const proposals = previous && { proposals: Object.fromEntries(Object.entries(previous.actions).map(([name, rows]) => [name, [rows]])), clip: true };
    const options = { horizon: present.horizon, budget_s: goal.budget ?? BUDGET_S, min_trust: goal.trust ?? 0, seed: (goal.seed ?? 0) + round };
    return api.post(...question(world, present, { verb: "plan", goal: problem.goal, constraints: problem.constraints, ...options, ...proposals }));
  };
  const start = async rounds => {
    const own = ++run.current;
    let plans = [], error = null;
    set({ key, plans, busy: true });
    try {
      while (plans.length < rounds && !["optimal", "refused"].includes(plans.at(-1)?.status)) {
        plans = [...plans, await ask(plans.at(-1), plans.length)];
        if (run.current !== own) return;
        set({ key, plans, busy: true });
      }
    } catch (failure) {
      error = failure;
    }
    if (run.current !== own) return;
    set({ key, plans, error, busy: false });
    go({ goal: { ...goal, ran: plans.length } });
  };
  const stop = () => { run.current++; set(last => ({ ...last, busy: false })); };
  useEffect(() => () => { run.current++; }, [key]);
  useEffect(() => {
    if (!canStart || isRestored.current) return;
    isRestored.current = true;
    start(goal.ran);
  }, [canStart]);
  return { ...(state.key === key ? state : { plans: [], busy: false }), start, stop };
}

// The logged actions under the same goal: their path, and [cost, violation] of both.
function useLoggedActions(world, present, problem, plan, key) {
  const ask = async () => {
    const logged = inputsOf(present, "action", { plain: true });
    const actions = Object.fromEntries(Object.entries(logged).map(([name, rows]) => [name, [rows, plan.actions[name]]]));
    const asked = [{ verb: "score", goal: problem.goal, constraints: problem.constraints, actions, clip: true }, { actions: logged }];
    const [scores, prediction] = await Promise.all(asked.map(options => api.post(...question(world, present, options))));
    return { ...scores, prediction };
  };
  return useAsked(present.path && plan?.prediction ? `${key} ${plan.cost} ${plan.elapsed_s}` : null, ask, key);
}

// Per curve: its target and limits, the path under the logged actions, and those of earlier rounds.
function linesOf(present, goal, plans, versus) {
  const { axis, now, horizon } = present;
  return curve => {
    const flat = (label, style, values) => ({ label, style, x: values.map((_, k) => (now + k + 1) * axis.scale), y: values });
    const ahead = (prediction, line) => aheadLine(present, curve, prediction.signals[curve.signal.name].mean, line);
    const lines = plans.slice(0, -1).filter(plan => plan.prediction).map(plan => ahead(plan.prediction, { label: "", style: "rule" }));
    if (versus) lines.push(ahead(versus.prediction, { label: "logged actions", style: "other1" }));
    const target = goal.targets?.[curve.key];
    if (target !== undefined) lines.push(flat("target", "other0", overTime(target, horizon)));
    for (const [end, text] of [["low", "at least"], ["high", "at most"]]) {
      if (goal[end]?.[curve.key] !== undefined) lines.push(flat(text, "other2", Array(horizon).fill(goal[end][curve.key])));
    }
    return lines;
  };
}

// What drawing in a lane does: a target for all steps, or a reference over time.
function drawing(present, goal, set, tool, curve, last) {
  const { axis, now, first, horizon } = present, old = goal.targets?.[curve.key];
  return (x, y, isFirst, direction) => {
    const [low, high] = rangeOf([column(present.observed[curve.signal.name], curve.index)]);
    const before = constant(old) ?? cell(present.observed[curve.signal.name]?.[now - first], curve.index) ?? 0;
    const fitted = clamp(direction ? before + direction * (high - low) / 50 : y, curve.low, curve.high);
    const value = curve.index === null ? Math.round(fitted) : +fitted.toPrecision(4);
    if (tool === "target") return set({ targets: { ...goal.targets, [curve.key]: value } });
    const values = overTime(old ?? value, horizon), step = clamp(Math.floor(x / axis.scale) - now, 0, horizon - 1);
    const from = isFirst || last.current === null ? step : last.current;
    values.fill(value, Math.min(from, step), direction ? horizon : Math.max(from, step) + 1);
    last.current = step;
    return set({ targets: { ...goal.targets, [curve.key]: toRuns(values) } });
  };
}

function Episode() {
  const { log, episode } = usePlace(), { value } = useLog(log), most = (value?.num_episodes ?? 1) - 1;
  return value ? html`<label class="choice"><span class="soft">Episode</span><input type="number" min="0" max=${most} value=${episode}
    onChange=${event => go({ episode: clamp(Math.trunc(+event.target.value) || 0, 0, most), at: undefined, edits: undefined })} /></label>` : null;
}

function Field({ label, value, hint, onChange, ...rest }) {
  const change = event => onChange(event.target.value === "" ? undefined : +event.target.value);
  return html`<input type="number" step="any" aria-label=${label} title=${label} placeholder=${hint} value=${value ?? ""} onChange=${change} ...${rest} />`;
}

function Wishes({ present, goal, set }) {
  const { schema, card, path, total, now } = present, actions = byRole(schema, "action").filter(signal => signal.kind === "vector");
  const field = (group, key, label, hint) => html`<${Field} label=${label} hint=${hint} value=${constant(goal[group]?.[key])} min=${["tolerance", "change"].includes(group) ? 0 : undefined}
    onChange=${value => set({ [group]: { ...goal[group], [key]: value } })} />`;
  const camera = path && byRole(schema, "observation").find(({ name, kind }) => kind === "image" && card.inputs.includes(name));
  const choose = event => set({ frame: +event.target.value });
  return html`<${Title} aside="in the units of the signals">Goal<//><div class="fields"><i>target</i><i>±</i><i>at least</i><i>at most</i>
    ${vectors(present).flatMap(curvesOf).map(({ key, label, unit, index, signal }) => html`<b>${label} <small>${unit}</small></b>
      ${field("targets", key, `Target of ${label}`, Array.isArray(goal.targets?.[key]) ? "curve" : "")}
      ${index === 0 ? field("tolerance", signal.name, `Tolerance of ${label}`, "auto") : html`<span></span>`}
      ${index !== null && html`${field("low", key, `${label} at least`)}${field("high", key, `${label} at most`)}`}`)}</div>
    ${camera && html`<${Title}>Goal picture<//>${!card.abilities.includes("reaches") ? html`<p class="soft">This world has no distance to a picture. Learn it with <code>--goals</code>.</p>`
    : html`<label><span class="unseen">Step of the goal picture</span><input type="range" min="0" max=${total} value=${goal.frame ?? now} onInput=${choose} /></label>
      ${goal.frame !== undefined && html`<div class="pictures"><figure><figcaption>${camera.name}, step ${goal.frame} <button onClick=${() => set({ frame: undefined })}>Remove</button></figcaption>
        <${LogPicture} path=${`${path}/frames/${seg(camera.name)}?steps=${goal.frame}&height=160`} alt=${`Goal: ${camera.name} at step ${goal.frame}`} /></figure></div>`}`}`}
    ${actions.length > 0 && html`<${Title} aside="per step">Costs of actions<//><div class="fields two"><i>price of a unit</i><i>change that costs 1</i>
      ${actions.flatMap(curvesOf).map(({ key, label, unit, index, signal }) => html`<b>${label} <small>${unit}</small></b>${field("price", key, `Price of ${label}`)}
        ${index === 0 ? field("change", signal.name, `Change of ${label} that costs 1`) : html`<span></span>`}`)}</div>`}`;
}

// Boxes in the plane of two signals that the plan must stay out of.
function KeepOut({ present, goal, set, plan }) {
  const all = curves(vectors(present).filter(signal => signal.kind === "vector")), svg = useRef(null), [drawn, draw] = useState(null);
  if (all.length < 2) return null;
  const [x, y] = [0, 1].map(k => all.find(curve => curve.key === goal.plane?.[k]) ?? all[k]), boxes = goal.boxes ?? [];
  const here = boxes.filter(box => box.x === x.key && box.y === y.key);
  const tracks = [x, y].map(({ signal, index }) => [column(present.observed[signal.name], index), column(plan?.prediction?.signals[signal.name].mean, index)]);
  const ends = tracks.map((columns, k) => rangeOf([...columns, here.flatMap(box => [box.low[k], box.high[k]])]));
  const across = (value, k) => 100 * (k ? ends[1][1] - value : value - ends[0][0]) / (ends[k][1] - ends[k][0]);
  const d = part => tracks[0][part].map((value, k) => [value, tracks[1][part][k]]).filter(pair => !pair.includes(null)).map(pair => pair.map(across).map(at => at.toFixed(1)).join(" ")).join("L");
  const add = (from, to) => set({ boxes: [...boxes, { x: x.key, y: y.key, low: from.map((value, k) => +Math.min(value, to[k]).toPrecision(4)), high: from.map((value, k) => +Math.max(value, to[k]).toPrecision(4)) }] });
  const pointer = event => {
    const edge = svg.current.getBoundingClientRect(), at = [(event.clientX - edge.left) / edge.width, 1 - (event.clientY - edge.top) / edge.height]
      .map((share, k) => ends[k][0] + clamp(share, 0, 1) * (ends[k][1] - ends[k][0]));
    if (event.type === "pointerdown") {
      event.currentTarget.setPointerCapture(event.pointerId);
      draw([at, at]);
    } else if (drawn && event.type === "pointermove") draw([drawn[0], at]);
    else if (drawn) {
      if (drawn[0].every((value, k) => value !== at[k])) add(drawn[0], at);
      draw(null);
    }
  };
  const rect = (low, high) => html`<rect x=${across(low[0], 0)} y=${across(high[1], 1)} width=${across(high[0], 0) - across(low[0], 0)} height=${across(low[1], 1) - across(high[1], 1)} />`;
  const change = (box, end, k, value) => set({ boxes: boxes.map(other => other === box ? { ...box, [end]: box[end].map((old, at) => at === k ? value ?? old : old) } : other) });
  const options = all.map(curve => [curve.key, curve.label]), third = share => ends.map(([low, high]) => low + share * (high - low));
  return html`<${Title} aside="draw with the pointer">Keep-out boxes<//>
    <div class="plane"><svg ref=${svg} viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label=${`${y.label} over ${x.label}, with ${here.length} keep-out boxes`}
      onPointerDown=${pointer} onPointerMove=${pointer} onPointerUp=${pointer}><path d=${`M${d(0)}`} /><path class="ahead" d=${d(1) && `M${d(1)}`} />
      ${here.map(box => rect(box.low, box.high))}${drawn && rect([0, 1].map(k => Math.min(drawn[0][k], drawn[1][k])), [0, 1].map(k => Math.max(drawn[0][k], drawn[1][k])))}</svg></div>
    <div class="sorting"><${Choice} label="across" value=${x.key} options=${options} onChange=${key => set({ plane: [key, y.key] })} />
      <${Choice} label="up" value=${y.key} options=${options} onChange=${key => set({ plane: [x.key, key] })} /><button onClick=${() => add(third(0.4), third(0.6))}>Add a box</button></div>
    ${boxes.map((box, number_) => html`<div class="fields" key=${number_}><b>${boxText(box)} <button class="small" onClick=${() => set({ boxes: boxes.filter(other => other !== box) })}>Remove</button></b>
      ${[0, 1].map(k => ["low", "high"].map(end => html`<${Field} label=${`Box ${number_ + 1}, ${box[k ? "y" : "x"]}, ${end}`} value=${box[end][k]} onChange=${value => change(box, end, k, value)} />`))}</div>`)}`;
}

function Options({ card, goal, set }) {
  const holds = HOLDS.filter(([value]) => !(+value > (card.band_level || 0)));
  const field = (name, label, hint, rest) => html`<label><i>${label}</i><${Field} label=${label} hint=${hint} value=${goal[name]} onChange=${value => set({ [name]: value })} ...${rest} /></label>`;
  return html`<${Title}>Search<//><${Choice} label="Limits hold" value=${goal.hold ?? "mean"} options=${holds} onChange=${hold => set({ hold })} />
    <div class="fields two">${field("rounds", "rounds", ROUNDS, { min: 1, step: 1 })}${field("budget", "seconds per round", BUDGET_S, { min: 0.05 })}
      ${field("trust", "smallest trust", 0, { min: 0, max: 1 })}${field("seed", "seed", 0, { min: 0, step: 1 })}</div>`;
}

function Actions({ present, plan }) {
  const { lanes, axis, now, first, horizon } = present, x = [first * axis.scale, (now + horizon) * axis.scale];
  return html`<${Title} aside=${plan ? "" : "as logged, until there is a plan"}>Planned actions<//><div class="panel">${lanes.filter(lane => lane.role === "action").map(({ curve, before, logged }) => html`
    <${InputLane} key=${curve.key} curve=${curve} past=${before} future=${plan ? column(plan.actions[curve.signal.name], curve.index) : logged} scale=${axis.scale} now=${now} x=${x} axis=${axis.label} />`)}</div>`;
}

function Outcome({ present, problem, search: { plans, busy }, versus }) {
  const { edits, goal } = usePlace(), plan = plans.at(-1), { lanes, horizon, now, path } = present;
  if (!plan) return busy ? html`<${Waiting}>Planning<//>` : html`<${Title}>Plan<//><p class="soft">${problem.isComplete ? "Press Plan." : "Set a target: type it, or click into a chart. Prices and wishes work as well."}</p>`;
  const [title, text] = ENDS[plan.status], rounds = plans.map((_, k) => k + 1);
  const actions = Object.fromEntries(lanes.filter(lane => lane.role === "action").map(({ curve }) => [curve.key, toRuns(column(plan.actions[curve.signal.name], curve.index))]));
  const kept = violation => violation > 0 ? html`<span class="bad">violated by ${number(violation)}</span>` : "kept";
  return html`<${Title}>Plan${busy && html`<span class="aside"> round ${plans.length}, searching</span>`}<//><div class="verdict">${title}</div><p class="soft">${text}</p>
    ${plan.reason && html`<div class=${`warn ${plan.prediction ? "" : "bad"}`}><p>${plan.reason}</p></div>`}
    <dl>${plan.prediction && html`<dt>Cost</dt><dd>${number(plan.cost)}</dd>${plan.bound != null && html`<dt>No plan costs less than</dt><dd>${number(plan.bound)}</dd>`}
      ${problem.names.map((name, k) => html`<dt>${name}</dt><dd>${kept(plan.violation[k])}</dd>`)}`}
      <dt><${Term} name="trust">Trust<//></dt><dd>${number(plan.trust, 2)}</dd><dt>Time</dt><dd>${withUnit(plans.reduce((sum, { elapsed_s }) => sum + elapsed_s, 0), "s")}</dd></dl>
    ${plan.prediction && html`<p><button onClick=${() => go({ view: "imagine", edits: { ...edits, ...actions }, steps: horizon, goal })}>Use in Imagine</button></p>`}
    ${plans.length > 1 && html`<${Title} aside="cost per round">Candidates converge<//><${Chart} label="Cost per round" axis="rounds" x=${[1, plans.length]} height=${96}
      lines=${[{ label: "cost", style: "world", x: rounds, y: plans.map(({ cost }) => cost) }]} />`}
    ${path && plan.prediction && !busy && html`<${Title}>Against the log<//><${Failure} error=${versus.error} />${versus.value && html`<dl><dt>Cost of the logged actions</dt><dd>${number(versus.value.cost[0])}</dd>
      <dt>Cost of the plan</dt><dd>${number(versus.value.cost[1])}</dd>${problem.names.map((name, k) => html`<dt>${name}, logged actions</dt><dd>${kept(versus.value.violation[0][k])}</dd>`)}</dl>`}`}
    <${Title}>The same in Python<//><${Code}>${`goal = worldline.Goal(...)  # ${JSON.stringify(problem.goal.targets).slice(0, 90)}
plan = world.plan(history, goal, horizon=${horizon})  # at step ${now}\nplan.plot()`}<//>`;
}
