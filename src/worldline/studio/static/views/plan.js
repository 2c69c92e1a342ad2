// Plan: actions towards goals inside limits, and how they compare with the logged ones.
import { useEffect, useRef, useState } from "preact/hooks";
import { api, offline, seg } from "studio/api.js";
import { EpisodeList } from "studio/episodes.js";
import { Chart, pencil } from "studio/lane.js";
import { Choice, Failure, Field, html, LogPicture, Segments, Term, Title, Waiting } from "studio/parts.js";
import { aheadLine, fromRuns, inputsOf, question, toRuns, usePresent, useSteady } from "studio/present.js";
import { byRole, clamp, column, curves, curvesOf, number, rangeOf, withUnit } from "studio/signals.js";
import { go, place, useAsked, useGet, usePlace } from "studio/state.js";
import { Horizon, Inputs, Lanes, TimeOrStart } from "studio/views/imagine.js";

const ENDS = {
  optimal: ["Optimal", "No plan costs less, as far as the world predicts."],
  searched: ["Plan found", "The search ended. There may be better plans."],
  out_of_time: ["Best so far", "The time of the round was over before the search ended."],
  goal_outside_logs: ["Goal outside the log", "The plan approaches the goal as far as the world predicts."],
  infeasible: ["Infeasible", "No sequence that was tried satisfies all constraints. This one violates them least."],
  refused: ["Refused", "There are no actions, because the trust is too low."],
};
const TOOLS = [["", "nothing"], ["target", "target"], ["reference", "curve"]];
const HOLDS = [["mean", "on the expected path"], ["0.5", "with probability 50 %"], ["0.8", "with probability 80 %"], ["0.9", "with probability 90 %"], ["wish", "as wishes, at a cost"]];
const PLANNERS = [["", "of the world"], ["cem", "cross-entropy"], ["icem", "cross-entropy, improved"], ["mppi", "path integral"], ["predictive_sampling", "predictive sampling"], ["shooting", "random shooting"], ["gradient", "gradient"], ["lagrangian", "augmented Lagrangian"]];
const ROUNDS = 6, BUDGET_S = 2;

const isContinuous = card => byRole(card.schema, "action").every(signal => signal.kind === "vector");
const planner = goal => goal.planner ? { planner: goal.planner } : {};

// Changes the goal. Its plan is then no longer part of the place.
const set = changes => go({ goal: { ...place.value.goal, ran: undefined, ...changes } });
const put = (group, key, value) => set({ [group]: { ...place.value.goal?.[group], [key]: value } });

export default function Plan() {
  const now = usePlace(), present = useSteady(usePresent(now)), { card, ready } = present, goal = now.goal ?? {};
  const [tool, setTool] = useState(matchMedia("(pointer: coarse)").matches ? "" : "target"); // a touch may mean to scroll
  const frame = useGoalFrame(present, goal.frame), isLoaded = ready && (goal.frame === undefined || (frame.value && !frame.busy));
  const problem = ready ? problemOf(present, goal, frame.value) : null, canStart = isLoaded && problem.isComplete && card.action_conditioned;
  const key = JSON.stringify({ ...now, show: undefined, level: undefined, goal: { ...goal, ran: undefined } });
  const search = useSearch(now.world, present, problem, goal, key, canStart), plan = search.plans.at(-1);
  const versus = useLoggedActions(now.world, present, problem, search.busy ? null : plan, key);
  const lanes = plan ? present.lanes.map(lane => lane.role === "action" ? { ...lane, logged: column(plan.actions[lane.curve.signal.name], lane.curve.index) } : lane) : present.lanes;
  return html`<div class="page form"><aside>${now.log && html`<details><summary>Episode ${now.episode}</summary><${EpisodeList} /></details>`}
      ${ready && html`<${Wishes} present=${present} goal=${goal} /><${KeepOut} present=${present} goal=${goal} plan=${plan} /><${Options} card=${card} goal=${goal} />`}</aside>
    <section><${Failure} error=${present.error ?? frame.error} />
      ${!card ? !present.error && html`<${Waiting} />` : html`<${Horizon} present=${present}>
          <span class="choice"><span class="soft">Pointer sets</span><${Segments} label="What the pointer sets" value=${tool} options=${TOOLS} onChange=${setTool} /></span>
          ${search.busy ? html`<button onClick=${search.stop}>Stop</button>` : html`<button class="main" disabled=${!canStart} onClick=${() => search.start(goal.rounds ?? ROUNDS)}>Plan</button>`}<//>
        <${TimeOrStart} present=${present} /><${Failure} error=${search.error} />
        ${ready && html`<${Lanes} present=${present} prediction=${plan?.prediction} dreamed="plan" more=${linesOf(present, goal, search.plans, versus.value)}
            draw=${tool && (curve => drawing(present, goal, tool, curve))} />
          <${Inputs} present=${{ ...present, lanes, isEdited: false }} fixed=${["action", "exogenous"]} title=${plan ? "Planned actions" : "Actions, as logged"} />
          ${problem.isComplete && html`<${Simulator} key=${key} world=${now.world} present=${present} problem=${problem} goal=${goal} />`}`}`}</section>
    <aside aria-live="polite">${ready && html`<${Outcome} present=${present} problem=${problem} search=${search} versus=${versus} />`}</aside></div>`;
}

const targetable = ({ schema, card }) => schema.signals.filter(signal => card.predicts.includes(signal.name) && signal.kind !== "image");
const constant = target => Array.isArray(target) ? undefined : target;
const overTime = (target, steps) => fromRuns(Array.isArray(target) ? target : [[0, target]], steps);
const entries = (object, map) => Object.fromEntries(Object.entries(object).map(([name, value]) => [name, map(value, name)]));

// The goal and the constraints as the service takes them, with the names of the constraints.
function problemOf(present, goal, frame) {
  const { horizon, observed, schema } = present, targets = { ...frame }, tolerance = {}, costs = [], names = [], constraints = [];
  const all = targetable(present), constrain = (name, rule) => {
    names.push(name);
    constraints.push(+goal.hold ? { rule: "Chance", constraint: rule, level: +goal.hold } : rule);
  };
  for (const signal of all) {
    const { name } = signal, own = curvesOf(signal), pick = group => own.map(curve => goal[group]?.[curve.key] ?? null), isSet = values => values.some(value => value !== null);
    const wanted = pick("targets"), low = pick("low"), high = pick("high"), isWhole = !wanted.includes(null);
    const [least, most] = rangeOf(own.map(curve => column(observed[name], curve.index)));
    const near = goal.tolerance?.[name], cost = { signal: name, tolerance: near ?? (most - least) / 20 }; // a cost needs a tolerance
    if (isWhole && !frame && !wanted.some(Array.isArray)) {
      targets[name] = signal.kind === "discrete" ? wanted[0] : wanted;
      if (near) tolerance[name] = near;
    } else if (isSet(wanted)) { // Within ignores the components without a target
      const paths = wanted.map(target => overTime(target, horizon)), rows = paths[0].map((_, k) => paths.map(values => values[k]));
      costs.push(isWhole ? { rule: "Track", ...cost, reference: rows } : { rule: "Within", ...cost, low: rows, high: rows });
    }
    if (goal.hold === "wish" && isSet([...low, ...high])) costs.push({ rule: "Within", ...cost, low, high });
    else for (const [rule, bound, text] of [["AtLeast", low, "at least"], ["AtMost", high, "at most"]]) if (isSet(bound)) constrain(own.flatMap(({ label, unit }, k) => bound[k] === null ? [] : `${label} ${text} ${withUnit(bound[k], unit)}`).join(", "), { rule, signal: name, bound });
  }
  for (const signal of byRole(schema, "action")) {
    const price = curvesOf(signal).map(curve => goal.price?.[curve.key] ?? 0), tolerated = goal.change?.[signal.name];
    if (price.some(Boolean)) costs.push({ rule: "Price", signal: signal.name, price });
    if (tolerated) costs.push({ rule: "Change", signal: signal.name, tolerance: tolerated });
  }
  for (const box of goal.boxes ?? []) {
    const rule = { rule: "KeepOut", low: {}, high: {} }, sides = [box.x, box.y].map(name => curves(all).find(curve => curve.key === name));
    for (const [k, { signal, index }] of sides.entries()) {
      for (const end of ["low", "high"]) (rule[end][signal.name] ??= Array(signal.shape[0]).fill(null))[index] = box[end][k];
    }
    constrain(`${sides.map(({ label }) => label).join(" and ")} out of the box`, rule);
  }
  return { goal: { targets, tolerance, costs }, constraints, names, isComplete: Object.keys(targets).length + costs.length > 0 };
}

// A frame of the log as a goal: all that the world observes at this step.
function useGoalFrame({ path, card, schema, ready }, step) {
  const ask = async () => {
    const { observations } = await api.get(`${path}?first=${step}&last=${step}`), values = {};
    for (const { name, kind, shape } of byRole(schema, "observation").filter(signal => card.inputs.includes(signal.name))) {
      values[name] = kind === "image" ? await pixels(await api.picture(`${path}/frames/${seg(name)}?steps=${step}&height=0`), shape) : observations[name][0];
    }
    return values;
  };
  return useAsked(ready && path && step !== undefined ? `${path} ${step}` : null, ask, path ?? "");
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
  const [state, show] = useState({ plans: [] }), [rounds, start] = useState(goal.ran ?? 0), run = useRef(0);
  const ask = (previous, round) => {
    const proposals = previous && { proposals: entries(previous.actions, rows => [rows]), clip: true };
    const options = { horizon: present.horizon, budget_s: goal.budget ?? BUDGET_S, min_trust: goal.trust ?? 0, seed: (goal.seed ?? 0) + round, ...planner(goal) };
    return api.post(...question(world, present, { verb: "plan", goal: problem.goal, constraints: problem.constraints, ...options, ...proposals }));
  };
  const search = async () => {
    const own = ++run.current;
    let plans = [], error = null;
    show({ key, plans, busy: true });
    while (plans.length < rounds && !error && !["optimal", "refused"].includes(plans.at(-1)?.status)) {
      await ask(plans.at(-1), plans.length).then(plan => { plans = [...plans, plan]; }, failure => { error = failure; });
      if (run.current !== own) return;
      show({ key, plans, error, busy: true });
    }
    show({ key, plans, error, busy: false });
    set({ ran: plans.length || undefined });
  };
  const stop = () => { run.current++; show(last => ({ ...last, busy: false })); };
  useEffect(() => () => { run.current++; }, [key]);
  useEffect(() => { // after the drawing that a change just before the click has caused
    if (!rounds || !canStart) return;
    start(0);
    search();
  }, [rounds, canStart]);
  return { ...(state.key === key ? state : { plans: [], busy: false }), start, stop };
}

// The logged actions under the same goal: their path, and [cost, violation] of both.
function useLoggedActions(world, present, problem, plan, key) {
  const ask = async () => {
    const logged = inputsOf(present, "action", { plain: true }), actions = entries(logged, (rows, name) => [rows, plan.actions[name]]);
    const asked = [{ verb: "score", goal: problem.goal, constraints: problem.constraints, actions, clip: true }, { actions: logged }];
    const [scores, prediction] = await Promise.all(asked.map(options => api.post(...question(world, present, options))));
    return { ...scores, prediction };
  };
  return useAsked(present.path && plan?.prediction ? `${key} ${plan.cost} ${plan.elapsed_s}` : null, ask, key);
}

// Per curve: the paths of earlier rounds and of the logged actions, the target and the limits.
function linesOf(present, goal, plans, versus) {
  const { axis, now, horizon } = present;
  return ({ key, signal, index }) => {
    const ahead = (prediction, line) => aheadLine(present, { signal, index }, prediction.signals[signal.name].mean, line);
    const lines = plans.slice(0, -1).filter(plan => plan.prediction).map(plan => ahead(plan.prediction, { label: "", style: "rule" }));
    if (versus) lines.push(ahead(versus.prediction, { label: "logged actions", style: "other1" }));
    for (const [group, label, style] of [["targets", "target", "other0"], ["low", "at least", "other2"], ["high", "at most", "other2"]]) {
      const y = goal[group]?.[key] === undefined ? [] : overTime(goal[group][key], horizon);
      lines.push({ label, style, y, x: y.map((_, k) => (now + k + 1) * axis.scale) });
    }
    return lines;
  };
}

// Drawing in a lane sets a target for all steps, or a reference over time.
function drawing(present, goal, tool, curve) {
  const rows = column(present.observed[curve.signal.name], curve.index), old = goal.targets?.[curve.key] ?? rows[present.now - present.first] ?? 0;
  const onEdit = (values, step) => put("targets", curve.key, tool === "target" ? +values[step].toPrecision(4) : toRuns(values));
  return pencil({ curve, values: overTime(old, present.horizon), now: present.now, scale: present.axis.scale, range: rangeOf([rows]), onEdit });
}

function Wishes({ present, goal }) {
  const { schema, card, path, total, now } = present, actions = byRole(schema, "action").filter(signal => signal.kind === "vector");
  const field = (group, key, label, hint) => html`<${Field} label=${label} hint=${hint} value=${constant(goal[group]?.[key])} onChange=${value => put(group, key, value)} />`;
  const camera = path && byRole(schema, "observation").find(({ name, kind }) => kind === "image" && card.inputs.includes(name));
  return html`<${Title} aside="in the units of the signals">Goal<//><div class="fields"><i>target</i><i>±</i><i>at least</i><i>at most</i>
    ${targetable(present).flatMap(curvesOf).map(({ key, label, unit, index, signal }) => html`<b>${label} <small>${unit}</small></b>
      ${field("targets", key, `Target of ${label}`, Array.isArray(goal.targets?.[key]) ? "curve" : "")}${index ? html`<span></span>` : field("tolerance", signal.name, `Tolerance of ${label}`, "auto")}
      ${index === null ? html`<span></span><span></span>` : html`${field("low", key, `${label} at least`)}${field("high", key, `${label} at most`)}`}`)}</div>
    ${camera && html`<${Title}>Goal picture<//>${!card.abilities.includes("reaches") ? html`<p class="soft">This world has no distance to a picture. Learn it with <code>--goals</code>.</p>`
    : html`<input type="range" aria-label="Step of the goal picture" min="0" max=${total} value=${goal.frame ?? now} onInput=${event => set({ frame: +event.target.value })} />
      ${goal.frame !== undefined && html`<div class="pictures"><figure><figcaption>${camera.name}, step ${goal.frame}</figcaption>
        <${LogPicture} path=${`${path}/frames/${seg(camera.name)}?steps=${goal.frame}&height=160`} alt=${`Goal: ${camera.name} at step ${goal.frame}`} /></figure></div><button onClick=${() => set({ frame: undefined })}>No picture</button>`}`}`}
    ${actions.length > 0 && html`<${Title} aside="per step">Costs of actions<//><div class="fields two"><i>price of a unit</i><i>tolerated change</i>
      ${actions.flatMap(curvesOf).map(({ key, label, unit, index, signal }) => html`<b>${label} <small>${unit}</small></b>${field("price", key, `Price of ${label}`)}
        ${index ? html`<span></span>` : field("change", signal.name, `Tolerated change of ${label}`)}`)}</div>`}`;
}

// Boxes in the plane of two signals that the plan must stay out of.
function KeepOut({ present, goal, plan }) {
  const all = curves(targetable(present).filter(signal => signal.kind === "vector")), [drag, setDrag] = useState(null), boxes = goal.boxes ?? [];
  if (all.length < 2) return null;
  const plane = [0, 1].map(k => all.find(curve => curve.key === goal.plane?.[k]) ?? all[k]), [x, y] = plane.map(curve => curve.key);
  const here = [...boxes.filter(box => box.x === x && box.y === y), ...drag ? [drag] : []];
  const tracks = [present.observed, plan?.prediction && entries(plan.prediction.signals, ({ mean }) => mean)].map(source => plane.map(({ signal, index }) => column(source?.[signal.name], index)));
  const ends = plane.map((_, k) => rangeOf([...tracks.map(track => track[k]), here.flatMap(box => [box.low[k], box.high[k]])]));
  const across = (value, k) => 100 * Math.abs(value - ends[k][k]) / (ends[k][1] - ends[k][0]); // up is less in a picture
  const line = ([xs, ys]) => xs.map((value, k) => value == null || ys[k] == null ? "" : ` ${across(value, 0).toFixed(1)},${across(ys[k], 1).toFixed(1)}`).join("");
  const box = (from, to) => ({ x, y, from, low: from.map((value, k) => +Math.min(value, to[k]).toPrecision(4)), high: from.map((value, k) => +Math.max(value, to[k]).toPrecision(4)) });
  const add = ({ from, ...rest }) => set({ boxes: [...boxes, rest] });
  const pointer = event => {
    const edge = event.currentTarget.getBoundingClientRect(), shares = [(event.clientX - edge.left) / edge.width, (edge.bottom - event.clientY) / edge.height];
    const at = shares.map((share, k) => ends[k][0] + clamp(share, 0, 1) * (ends[k][1] - ends[k][0]));
    if (event.type === "pointerdown") event.currentTarget.setPointerCapture(event.pointerId);
    else if (!drag) return;
    if (event.type === "pointerup" && drag.low.every((value, k) => value < drag.high[k])) add(drag);
    setDrag(event.type === "pointerup" ? null : box(drag && event.type === "pointermove" ? drag.from : at, at));
  };
  const replace = (old, changes) => set({ boxes: boxes.flatMap(other => other === old ? changes ? [{ ...old, ...changes }] : [] : [other]) });
  const labelOf = key => all.find(curve => curve.key === key)?.label;
  const choice = (label, k) => html`<${Choice} label=${label} value=${[x, y][k]} options=${all.map(curve => [curve.key, curve.label])} onChange=${key => set({ plane: k ? [x, key] : [key, y] })} />`;
  return html`<${Title} aside="draw with the pointer">Keep-out boxes<//><svg class="plane" viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label=${`${plane[1].label} over ${plane[0].label}, ${here.length} keep-out boxes`}
      onPointerDown=${pointer} onPointerMove=${pointer} onPointerUp=${pointer}><polyline points=${line(tracks[0])} /><polyline class="ahead" points=${line(tracks[1])} />
      ${here.map(({ low, high }) => html`<rect x=${across(low[0], 0)} y=${across(high[1], 1)} width=${across(high[0], 0) - across(low[0], 0)} height=${across(low[1], 1) - across(high[1], 1)} />`)}</svg>
    <p class="soft">${plane.map(({ unit }, k) => `${k ? ", up " : "across "}${number(ends[k][0])} to ${withUnit(ends[k][1], unit)}`)}</p>${choice("across", 0)}${choice("up", 1)}<p><button onClick=${() => add(box(...[0.4, 0.6].map(share => ends.map(([low, high]) => low + share * (high - low)))))}>Add a box</button></p>
    ${boxes.map((own, n) => html`<div class="fields" key=${n}>${["x", "y"].map((name, k) => html`<b>${labelOf(own[name])}, low and high</b>${["low", "high"].map(end => html`<${Field} label=${`Box ${n + 1}, ${labelOf(own[name])}, ${end}`} value=${own[end][k]}
      onChange=${value => replace(own, { [end]: own[end].map((old, at) => at === k ? value ?? old : old) })} />`)}`)}<button onClick=${() => replace(own)}>Remove</button></div>`)}`;
}

function Options({ card, goal }) {
  const holds = HOLDS.filter(([value]) => !(+value > (card.band_level || 0)));
  const field = (name, label, hint, rest) => html`<label><i>${label}</i><${Field} label=${label} hint=${hint} value=${goal[name]} onChange=${value => set({ [name]: value })} ...${rest} /></label>`;
  return html`<${Title}>Search<//><${Choice} label="Limits hold" value=${goal.hold ?? "mean"} options=${holds} onChange=${hold => set({ hold })} />
    ${!offline && isContinuous(card) && html`<${Choice} label="Planner" value=${goal.planner ?? ""} options=${PLANNERS} onChange=${name => set({ planner: name || undefined })} />`}
    <div class="fields two">${field("rounds", "rounds", ROUNDS, { min: 1, step: 1 })}${field("budget", "seconds per round", BUDGET_S, { min: 0 })}
      ${field("trust", "smallest trust", 0, { min: 0, max: 1 })}${field("seed", "seed", 0, { min: 0, step: 1 })}</div>`;
}

// A run of an environment: the plan starts at its reset, and its actions are taken there.
function Simulator({ world, present, problem, goal }) {
  const [isOpen, open] = useState(false), [chosen, choose] = useState(null), [run, show] = useState({});
  const { value, error } = useGet(isOpen ? "v1/environments" : null), name = chosen ?? value?.environments[0], { card, horizon } = present;
  const start = async () => {
    show({ busy: true });
    try {
      const runs = `v1/environments/${seg(name)}/runs`;
      let view = await api.post(runs, { seed: goal.seed ?? 0 });
      const rows = entries(view.observations, first => first.data === undefined ? [first] : { ...first, shape: [1, ...first.shape] });
      const observations = Object.fromEntries(card.inputs.map(input => [input, rows[input]])), exogenous = inputsOf(present, "exogenous");
      const options = { horizon, budget_s: goal.budget ?? BUDGET_S, ...planner(goal), ...Object.keys(exogenous).length && { exogenous } };
      const plan = await api.post(`v1/worlds/${seg(world)}:plan`, { history: { observations, actions: {} }, goal: problem.goal, constraints: problem.constraints, ...options });
      for (let k = 0; k < horizon && !view.done; k++) {
        view = await api.post(`${runs}/${view.id}:step`, { actions: entries(plan.actions, values => values[k]) });
        for (const [signal, known] of Object.entries(rows)) if (Array.isArray(known)) known.push(view.observations[signal] ?? null);
      }
      await api.remove(`${runs}/${view.id}`);
      show({ plan, present: { ...present, observed: rows, first: 0, now: 0, path: null } });
    } catch (failure) {
      show({ error: failure });
    }
  };
  const taken = curve => [aheadLine(run.present, curve, run.present.observed[curve.signal.name]?.slice(1) ?? [], { label: "simulator", style: "real" })];
  return html`<details class="simulator" onToggle=${event => open(event.target.open)}><summary>Run in a simulator</summary><${Failure} error=${run.error ?? error} />
    ${name && html`<div class="bar"><${Choice} label="Environment" value=${name} options=${value.environments.map(one => [one, one])} onChange=${choose} />
      <button disabled=${run.busy} onClick=${start}>Plan from its reset, and run</button></div>`}
    ${run.plan && html`<${Lanes} present=${run.present} prediction=${run.plan.prediction} dreamed="plan" title="Plan and simulator" logged=${false} more=${taken} />`}</details>`;
}

function Outcome({ present, problem, search: { plans, busy }, versus }) {
  const { edits } = usePlace(), plan = plans.at(-1), { lanes, horizon, path } = present;
  if (!present.card.action_conditioned) return html`<${Title}>Plan<//><p class="soft">No action changes the predictions of this world, so it cannot plan.</p>`;
  if (!plan) return busy ? html`<${Waiting}>Planning<//>` : html`<${Title}>Plan<//><p class="soft">${problem.isComplete ? "Press Plan." : "Set a target: type it, or click into a chart. A price or a wish works as well."}</p>`;
  const [title, text] = ENDS[plan.status], own = lanes.filter(lane => lane.role === "action").map(({ curve }) => [curve.key, toRuns(column(plan.actions[curve.signal.name], curve.index))]);
  const kept = violations => problem.names.map((name, k) => html`<dt>${name}</dt><dd>${violations[k] > 0 ? html`<span class="bad">violated by ${number(violations[k])}</span>` : "kept"}</dd>`);
  return html`<${Title} aside=${busy && `round ${plans.length + 1}`}>Plan<//><div class="verdict">${title}</div><p class="soft">${text}</p>${plan.reason && html`<div class="warn"><p>${plan.reason}</p></div>`}
    <dl>${plan.prediction && html`<dt>Cost</dt><dd>${number(plan.cost)}</dd>${plan.bound != null && html`<dt>Least possible cost</dt><dd>${number(plan.bound)}</dd>`}${kept(plan.violation)}`}
      <dt><${Term} name="trust">Trust<//></dt><dd>${number(plan.trust, 2)}</dd><dt>Time</dt><dd>${withUnit(plans.reduce((sum, { elapsed_s }) => sum + elapsed_s, 0), "s")}</dd></dl>
    ${plan.prediction && html`<p><button onClick=${() => go({ view: "imagine", edits: { ...edits, ...Object.fromEntries(own) }, steps: horizon })}>Use in Imagine</button></p>`}
    ${plans.length > 1 && html`<${Title} aside="cost per round">Candidates converge<//><${Chart} label="Cost per round" axis="rounds" x=${[1, plans.length]} height=${104} lines=${[{ label: "cost", style: "world", x: plans.map((_, k) => k + 1), y: plans.map(({ cost }) => cost) }]} />`}
    ${path && plan.prediction && !busy && html`<${Title}>Logged actions<//><${Failure} error=${versus.error} />${versus.value && html`<dl><dt>Cost</dt><dd>${number(versus.value.cost[0])}</dd>${kept(versus.value.violation[0])}</dl>`}`}`;
}
