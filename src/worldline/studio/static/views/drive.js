// Drive: a person acts in an environment, while the world continues alone from its first observation.
import { useEffect, useRef, useState } from "preact/hooks";
import { api, seg } from "studio/api.js";
import { Errors } from "studio/errors.js";
import { Choice, Failure, Frame, html, Term, Title } from "studio/parts.js";
import { drawsPictures } from "studio/present.js";
import { byRole, clamp, curves, number, timeAxis, withUnit } from "studio/signals.js";
import { go, useAsked, usePlace, useWorld } from "studio/state.js";
import { Lanes } from "studio/views/imagine.js";

const KEYS = { ArrowLeft: [0, 0], a: [0, 0], ArrowRight: [0, 1], d: [0, 1], ArrowDown: [1, 0], s: [1, 0], ArrowUp: [1, 1], w: [1, 1] };
const PACES = [["0", "a step per key"], ["2", "2 steps/s"], ["5", "5 steps/s"], ["10", "10 steps/s"], ["20", "20 steps/s"]];
const words = name => name.replaceAll("_", " ");
const ends = ({ low, high }) => [low ?? -1, high ?? 1];
const rest = curve => curve.index === null ? 0 : clamp(0, ...ends(curve));
const asRow = value => value?.data === undefined ? [value] : { ...value, shape: [1, ...value.shape] };

// {signal: value} from values per curve; what nobody set is at rest.
function grouped(all, push) {
  const values = {};
  for (const curve of all) {
    const value = push[curve.key] ?? rest(curve);
    if (curve.index === null) values[curve.signal.name] = value;
    else (values[curve.signal.name] ??= [])[curve.index] = value;
  }
  return values;
}

// A run of an environment: {path, view, rows, taken}. It takes one step after the other, and ends with the view.
function useRun(environment) {
  const [run, set] = useState(null), [error, fail] = useState(null), live = useRef({ run: null, busy: false });
  const ask = async (path, body, next) => {
    const own = live.current; // another object after a new start
    if (own.busy) return;
    own.busy = true;
    const [view, failure] = await api.act(path, body).then(answer => [answer, null], problem => [null, problem]);
    own.busy = false;
    if (live.current !== own) return;
    fail(failure);
    if (view) set(own.run = next(view));
  };
  const end = () => {
    const { run: last } = live.current;
    if (last) api.remove(`${last.path}/${last.view.id}`).catch(() => null); // it may have expired
    live.current = { run: null, busy: false };
    set(null);
  };
  useEffect(() => end, [environment]);
  const start = seed => {
    const path = `v1/environments/${seg(environment)}/runs`;
    end();
    return ask(path, { seed }, view => ({ path, view, rows: [view.observations], taken: [] }));
  };
  const step = actions => {
    const { run: last } = live.current;
    if (!last || last.view.done) return;
    ask(`${last.path}/${last.view.id}:step`, { actions }, view => ({ ...last, view, rows: [...last.rows, view.observations], taken: [...last.taken, actions] }));
  };
  return { run, error, start, step };
}

// The world from the first observation on, under all actions so far.
function useDream(world, card, run) {
  const lacks = card && run ? [...card.inputs.filter(name => run.rows[0][name] === undefined), ...byRole(card.schema, "exogenous").map(signal => signal.name)] : [];
  const key = card && run?.taken.length && !lacks.length ? `${world} ${run.view.id} ${run.taken.length}` : null;
  const asked = useAsked(key, () => api.act(`v1/worlds/${seg(world)}:predict`, {
    history: { observations: Object.fromEntries(card.inputs.map(name => [name, asRow(run.rows[0][name])])), actions: {} },
    actions: Object.fromEntries(byRole(card.schema, "action").map(({ name }) => [name, run.taken.map(actions => actions[name])])),
    ...(drawsPictures(card) && { images: true }),
  }), run ? `${world} ${run.view.id}` : "");
  return { ...asked, lacks };
}

export default function Drive({ environments, modes }) {
  const { env, seed = "0", pace = "0", world } = usePlace(), name = environments.includes(env) ? env : environments[0];
  const card = useWorld(world).value?.card, { run, error, start, step } = useRun(name), [push, set] = useState({});
  const all = card ? curves(byRole(card.schema, "action")) : [], isStepped = pace === "0", runs = run && !run.view.done;
  const dream = useDream(world, card, run), latest = useRef();
  const act = changes => { set(changes); if (isStepped) step(grouped(all, changes)); };
  const key = event => {
    if (!runs || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, .plot")) return;
    const [index, side] = KEYS[event.key] ?? [], curve = all[index], isDown = event.type === "keydown";
    if (!curve) return;
    event.preventDefault();
    // A key that is released, or another step, leaves the action at rest.
    const still = Object.fromEntries(all.slice(0, 2).filter(other => isStepped || (!isDown && other === curve)).map(other => [other.key, rest(other)]));
    if (isDown) act({ ...push, ...still, [curve.key]: ends(curve)[side] });
    else if (!isStepped) set({ ...push, ...still });
  };
  latest.current = { key, next: () => step(grouped(all, push)) };
  useEffect(() => {
    const heard = event => latest.current.key(event);
    for (const type of ["keydown", "keyup"]) addEventListener(type, heard);
    return () => { for (const type of ["keydown", "keyup"]) removeEventListener(type, heard); };
  }, []);
  useEffect(() => {
    if (isStepped || !runs) return undefined;
    const timer = setInterval(() => latest.current.next(), 1000 / pace);
    return () => clearInterval(timer);
  }, [pace, run?.view.id, runs]);
  return html`<div class="page two drive"><aside><${Title}>Environment<//>
      <${Choice} label="Name" value=${name} options=${environments.map(other => [other, other])} onChange=${value => go({ env: value })} />
      <label class="choice"><span class="soft">Seed</span><input type="number" min="0" step="1" value=${seed} onChange=${event => go({ seed: event.target.value })} /></label>
      <button class="main" onClick=${() => start(Math.max(0, Math.trunc(+seed) || 0))}>${run ? "Start again" : "Start"}</button>
      ${runs && html`<${Controls} all=${all} push=${push} onPush=${set} onAct=${act} />
        ${isStepped && html`<button onClick=${latest.current.next}>One step</button>`}`}</aside>
    <section><div class="bar">${modes}<${Choice} label="Pace" value=${pace} options=${PACES} onChange=${value => go({ pace: value })} /></div>
      <${Failure} error=${error ?? dream.error} />
      ${!run && !error && html`<p>Start a run. Then arrow keys, W A S D or the pad act in the environment and in the world at once.</p>`}
      ${dream.lacks.length > 0 && html`<div class="warn"><b>The world cannot follow</b><p>It needs ${dream.lacks.map(words).join(", ")}, which ${name} does not show.</p></div>`}
      ${run && html`<${Scene} run=${run} card=${card} dream=${dream.value} />`}</section></div>`;
}

function Controls({ all, push, onPush, onAct }) {
  const value = curve => push[curve.key] ?? rest(curve), [across, up] = all.filter(curve => curve.index !== null);
  const point = event => {
    if (event.type === "pointermove" && !event.buttons) return;
    if (event.type === "pointerdown") event.currentTarget.setPointerCapture(event.pointerId);
    const edge = event.currentTarget.getBoundingClientRect(), part = [(event.clientX - edge.left) / edge.width, 1 - (event.clientY - edge.top) / edge.height];
    const changes = { ...push };
    [across, up].forEach((curve, k) => { const [low, high] = ends(curve); changes[curve.key] = low + (high - low) * clamp(part[k], 0, 1); });
    (event.type === "pointerup" ? onAct : onPush)(changes);
  };
  const share = curve => { const [low, high] = ends(curve); return 100 * (value(curve) - low) / (high - low); };
  return html`<${Title}>Actions<//>${up && html`<div class="pad" aria-hidden="true" onPointerDown=${point} onPointerMove=${point} onPointerUp=${point}>
      <i style=${{ left: `${share(across)}%`, bottom: `${share(up)}%` }}></i></div>`}
    ${all.map(curve => html`<label key=${curve.key}>${curve.label} <span class="soft">${curve.names?.[value(curve)] ?? withUnit(value(curve), curve.unit)}</span>
      <input type="range" min=${ends(curve)[0]} max=${ends(curve)[1]} step=${curve.index === null ? 1 : (ends(curve)[1] - ends(curve)[0]) / 200} value=${value(curve)}
        onInput=${event => onPush({ ...push, [curve.key]: +event.target.value })} /></label>`)}
    ${all.length > 0 && html`<p class="soft">Left and right: ${all[0].label}. ${all[1] && `Up and down: ${all[1].label}.`}</p>`}`;
}

function Scene({ run: { view, rows, taken }, card, dream }) {
  const steps = taken.length, axis = timeAxis(card?.schema.step_s, Math.max(1, steps)), shown = { signals: dream?.signals ?? {} };
  const only = card?.predicts.filter(name => rows.some(row => row[name] !== undefined)) ?? [];
  const observed = Object.fromEntries(only.map(name => [name, rows.map(row => row[name] ?? null)]));
  const present = { card, schema: card?.schema, first: 0, now: 0, horizon: Math.max(1, steps), axis, observed, path: "run" };
  const below = (curve, isLast) => shown.signals[curve.signal.name] && html`<${Errors} curve=${curve} present=${present} forecast=${shown.signals[curve.signal.name]} bare=${!isLast} real="environment" />`;
  return html`<p role="status"><span class="big">${steps}</span> ${steps === 1 ? "step" : "steps"}${steps ? `, reward ${number(view.reward)}` : ""}${view.done ? ". The episode has ended. Start again." : ""}</p>
    <div class="pictures">${view.picture && html`<figure><figcaption>environment</figcaption><${Frame} array=${view.picture} label="environment now" width=${240} /></figure>`}
      ${Object.entries(dream?.images ?? {}).map(([name, frames]) => html`<figure key=${name}><figcaption><${Term} name="dream">dream<//>: ${words(name)}</figcaption><${Frame} array=${frames} at=${1e9} label=${`${name}, dream`} width=${240} /></figure>`)}</div>
    ${only.length > 0 && html`<${Lanes} present=${present} prediction=${shown} only=${only} dreamed="dream" title="Environment and dream" real="environment" below=${below} />`}`;
}
