// Surprise: which steps of an episode the world did not expect.
import { useEffect } from "preact/hooks";
import { api, seg } from "studio/api.js";
import { EpisodeList } from "studio/episodes.js";
import { Chart, Lane } from "studio/lane.js";
import { Choice, Failure, html, LogPicture, Term, Title, Waiting } from "studio/parts.js";
import { episodePath, useFuture, usePresent, useSteady } from "studio/present.js";
import { byRole, cell, clamp, curves, MAX_LANES, number, timeAxis, withUnit } from "studio/signals.js";
import { go, useAsked, usePlace } from "studio/state.js";
import { TimePanel } from "studio/time.js";
import { Chooser, Lanes } from "studio/views/imagine.js";

const PART = 5000, MAX_VALUES = 2 ** 26; // steps, and values of pictures, in one question
const BUCKETS = 600, AROUND = 16, MOMENTS = 10, LISTED = 0.1, RARE = 0.05;
const ALL = "all signals";
const words = name => name.replaceAll("_", " ");

// The least p-value of each bucket of steps, so that 100,000 steps are drawn like 600.
export function minima(values, first, size) {
  const rows = { steps: [], p: [] };
  for (let start = 0; start < values.length; start += size) {
    let least = start;
    for (let k = start + 1; k < Math.min(values.length, start + size); k++) if (values[k] < values[least]) least = k;
    rows.steps.push(first + least);
    rows.p.push(values[least]);
  }
  return rows;
}

// Asks in parts that fit into one question. Each part begins with the steps that the world remembers.
export async function surpriseOf(path, world, card, total) {
  const pixels = byRole(card.schema, "observation").filter(signal => signal.kind === "image" && card.inputs.includes(signal.name))
    .reduce((sum, { shape }) => sum + shape[0] * shape[1] * shape[2], 1);
  const room = Math.max(card.context + 2, Math.min(PART, Math.floor(MAX_VALUES / pixels) - 2)), size = Math.ceil(total / BUCKETS);
  const whole = { rare: 0, moments: [], signals: {} };
  for (let first = 0, last; first < total; first = last) {
    const at = Math.max(0, first - card.context);
    last = Math.min(total, at + room);
    const part = await api.post(`${path}:surprise?world=${seg(world)}${total > room ? `&at=${at}&steps=${last - at}` : ""}`, {}, answer => ({
      rare: answer.steps.slice(first - at).filter(p => p <= RARE).length,
      moments: answer.moments.map(moment => ({ ...moment, step: at + moment.step })).filter(moment => moment.step >= first),
      signals: Object.fromEntries(Object.entries({ [ALL]: answer.steps, ...answer.p_values }).map(([name, p]) => [name, minima(p.slice(first - at), first, size)])),
    }));
    whole.rare += part.rare;
    whole.moments.push(...part.moments);
    for (const [name, { steps, p }] of Object.entries(part.signals)) {
      const rows = whole.signals[name] ??= { steps: [], p: [] };
      rows.steps.push(...steps);
      rows.p.push(...p);
    }
  }
  whole.moments = whole.moments.sort((a, b) => a.p_value - b.p_value).slice(0, MOMENTS);
  return whole;
}

export default function Surprise() {
  const place = usePlace(), present = useSteady(usePresent({ ...place, steps: AROUND, edits: undefined, inside: true })), { card, total, overview } = present;
  const path = place.log && place.episode !== undefined ? episodePath(place.log, place.episode) : null;
  const key = path && card && total ? `${place.world} ${path}` : null;
  const { value, error, busy } = useAsked(key, () => surpriseOf(path, place.world, card, total), key ?? "");
  const whole = value?.signals[ALL], worst = whole?.steps[whole.p.indexOf(least(whole))];
  useEffect(() => { if (worst !== undefined && place.at === undefined) go({ at: worst }); }, [worst, place.at]);
  const level = place.level ?? Math.min(0.9, card?.band_level || 0.9);
  const future = useFuture(place.world, path && total > present.now ? present : {}, card?.band_horizon ? { level } : {});
  const axis = overview && card && timeAxis(overview.step_s ?? card.schema.step_s, total);
  const step = clamp(place.at ?? present.now ?? 0, 0, total - 1), choose = at => go({ at: clamp(at, 0, total - 1) });
  return html`<div class="page"><aside><${Title}>Episodes<//><${EpisodeList} /></aside>
    <section><${Failure} error=${present.error ?? error ?? future.error} />
      ${busy && html`<${Waiting}>Measuring the surprise of ${total} steps<//>`}
      ${axis && html`<${TimePanel} present=${{ ...present, now: step, horizon: 1, axis }} onChange=${choose} label="Step" />`}
      ${value && html`<${Timeline} value=${value} axis=${axis} step=${step} total=${total} onChoose=${choose} />`}
      ${value && present.ready && html`<${Around} value=${value} present=${present} future=${future.value} step=${step} />`}</section>
    <aside>${value && html`<${Moments} value=${value} axis=${axis} step=${step} total=${total} onChoose=${choose} />
      ${present.ready && future.value && html`<${Outcome} present=${present} future=${future.value} />`}`}</aside></div>`;
}

const pAt = ({ steps, p }, step) => p[steps.indexOf(step)] ?? null; // null if the step is not the least of its bucket
const least = ({ p }) => p.reduce((low, value) => Math.min(low, value), 1);

function Timeline({ value: { signals }, axis, step, total, onChoose }) {
  const { by } = usePlace(), names = Object.keys(signals).filter(name => name !== ALL).sort((a, b) => least(signals[a]) - least(signals[b]));
  const chosen = by ? names.filter(name => by.includes(name)) : names.slice(0, 3), all = names.map(name => ({ key: name, label: words(name) }));
  const y = [Math.min(least(signals[ALL]), ...names.map(name => least(signals[name])), 0.01) / 1.6, 1.6], x = [0, total * axis.scale];
  return html`<${Title} aside=${names.length > 1 && html`<${Chooser} all=${all} shown=${all.filter(({ key }) => chosen.includes(key))} name="by" />`}>
      <${Term} name="surprise">p-values<//> over the episode<//>
    <div class="panel">${[ALL, ...chosen].map((name, k) => html`<${Lane} key=${name} curve=${{ label: words(name), unit: "" }} value=${pAt(signals[name], step)}>
      <${Chart} label=${`p-values of ${words(name)}; Enter chooses a step`} height=${k < chosen.length ? 64 : 88} bare=${k < chosen.length} log=${true} x=${x} y=${y} now=${step * axis.scale} axis=${axis.label}
        onPick=${at => onChoose(Math.round(at / axis.scale))} lines=${[
      { label: "p", style: "world", x: signals[name].steps.map(at => at * axis.scale), y: signals[name].p.map(p => Math.max(p, y[0])) },
      { label: "", style: "soft", x, y: [RARE, RARE] }]} /><//>`)}</div>
    <p class="soft x-name">${axis.label} from the start of the episode · dashed: p = ${RARE}</p>`;
}

function Around({ value: { signals }, present, future, step }) {
  const cameras = byRole(present.schema, "observation").filter(signal => signal.kind === "image");
  const names = Object.keys(signals).filter(name => name !== ALL).sort((a, b) => (pAt(signals[a], step) ?? 1) - (pAt(signals[b], step) ?? 1));
  const frame = (camera, at, text) => html`<figure><figcaption>${words(camera.name)}, ${text} step ${step}</figcaption>
    <${LogPicture} path=${`${present.path}/frames/${seg(camera.name)}?steps=${at}&height=160`} alt=${`${camera.name}, observation ${at}`} /></figure>`;
  return html`${cameras.length > 0 && html`<${Title}>Before and after step ${step}<//><div class="pictures">${cameras.map(camera => [frame(camera, step, "before"), frame(camera, step + 1, "after")])}</div>`}
    <${Lanes} present=${present} prediction=${future} only=${names.slice(0, MAX_LANES)} title=${`Measured and predicted around step ${step}`} />`;
}

function Moments({ value: { moments, rare, signals }, axis, step, total, onChoose }) {
  const { of = ALL } = usePlace(), own = of in signals ? of : ALL, { steps, p } = signals[own];
  const rows = own === ALL ? moments : steps.map((at, k) => ({ step: at, p_value: p[k], signals: [own] }))
    .filter(row => row.p_value <= LISTED).sort((a, b) => a.p_value - b.p_value).slice(0, MOMENTS);
  const key = event => {
    const item = event.target.closest("li"), next = { ArrowDown: item?.nextElementSibling, ArrowUp: item?.previousElementSibling }[event.key];
    if (!next) return;
    next.firstElementChild.focus();
    next.firstElementChild.click();
    event.preventDefault();
  };
  return html`<${Title}>Unexpected steps<//><div class="big">${rare}</div>
    <p class="soft">of ${number(total, 7)} steps have a p-value of at most ${RARE}. In an ordinary episode about ${number(RARE * total, 2)} have.</p>
    <${Title}>Most surprising moments<//>
    <${Choice} label="of" value=${own} options=${Object.keys(signals).map(name => [name, words(name)])} onChange=${name => go({ of: name === ALL ? undefined : name })} />
    ${rows.length === 0 && html`<p class="soft">No step has a p-value of at most ${LISTED}.</p>`}
    <ol class="moments" aria-label="Moments" onKeyDown=${key}>${rows.map(row => html`<li key=${row.step}><button class=${`episode ${row.step === step ? "on" : ""}`} aria-current=${row.step === step} onClick=${() => onChoose(row.step)}>
      <b>${axis.label === "steps" ? "" : `${axis.text(row.step)} · `}step ${row.step}</b> <span class=${`chip ${row.p_value < 0.01 ? "bad" : "unclear"}`}>p ${number(row.p_value, 2)}</span>
      <small>${row.signals.slice(0, 2).map(words).join(", ")}</small></button></li>`)}</ol>`;
}

// The observation after the step, and what the world expected.
function Outcome({ present: { schema, observed, now, first }, future }) {
  const all = curves(schema.signals.filter(signal => future.signals[signal.name])).slice(0, 2 * MAX_LANES);
  return html`<${Title} aside="measured, and expected below">After step ${now}<//><dl>${all.map(({ key, label, unit, index, signal: { name } }) => {
    const { mean, low, high } = future.signals[name], lowest = cell(low?.[0], index), highest = cell(high?.[0], index);
    return html`<dt key=${key}>${label}</dt><dd>${withUnit(cell(observed[name]?.[now - first + 1], index), unit)}
      <span class="soft">${lowest == null ? number(cell(mean[0], index)) : `${number(lowest)} to ${number(highest)}`}</span></dd>`;
  })}</dl>`;
}
