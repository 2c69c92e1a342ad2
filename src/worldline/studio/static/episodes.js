// The list of episodes: only the visible rows are in the page.
import { useEffect, useRef, useState } from "preact/hooks";
import { signal } from "@preact/signals-core";
import { api, seg } from "studio/api.js";
import { episodePath } from "studio/present.js";
import { Choice, Failure, html, LogPicture, Waiting } from "studio/parts.js";
import { byRole, column, curves, number } from "studio/signals.js";
import { go, useGet, useLog, usePlace, useSignal } from "studio/state.js";

const ROW = 62, SPARE = 4, PAGE = 10000;

// Figures of episodes by "world log", then by number: {surprise, error}. They are computed when a user asks for them.
const figures = signal({});

function useEpisodes(log) {
  return useGet(log ? `v1/logs/${seg(log)}/episodes?limit=${PAGE}` : null);
}

const ORDERS = [["number", "number"], ["surprise", "surprise"], ["error", "error"], ["length", "length"]];

export function EpisodeList({ filmed = true }) {
  const { world, log, episode, find = "", sort = "number", view } = usePlace();
  const { value, error } = useEpisodes(log), logView = useLog(log).value;
  const scores = useSignal(figures)[`${world} ${log}`] ?? {};
  const [top, setTop] = useState(0), [height, setHeight] = useState(600), box = useRef(null);
  useEffect(() => {
    if (!box.current) return undefined;
    const watch = new ResizeObserver(() => box.current && setHeight(box.current.clientHeight));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, [value === undefined]);
  if (!log) return html`<p class="soft">No log was opened. Start the studio with one: <code>worldline studio WORLD LOGS</code></p>`;
  if (error) return html`<${Failure} error=${error} />`;
  if (!value || !logView) return html`<${Waiting} />`;
  const wanted = find.toLowerCase();
  const rows = value.episodes.filter(row => !wanted || `episode ${row.number} ${row.source} ${row.ending}`.toLowerCase().includes(wanted));
  const figure = (row, name) => scores[row.number]?.[name] ?? Infinity;
  const orders = { surprise: (a, b) => figure(a, "surprise") - figure(b, "surprise"), error: (a, b) => finite(figure(b, "error")) - finite(figure(a, "error")), length: (a, b) => b.num_steps - a.num_steps };
  if (orders[sort]) rows.sort(orders[sort]);
  const first = Math.max(0, Math.floor(top / ROW) - SPARE), shown = rows.slice(first, first + Math.ceil(height / ROW) + 2 * SPARE);
  const open = row => go({ view: view === "home" ? "imagine" : view, episode: row.number, at: undefined, edits: undefined });
  return html`<div class="episodes">
    <input type="search" placeholder=${`Search ${number(value.total)} episodes`} aria-label=${`Search ${value.total} episodes`} value=${find} onInput=${event => go({ find: event.target.value || undefined })} />
    <div class="sorting"><${Choice} label="Sort" value=${sort} options=${ORDERS} onChange=${name => go({ sort: name })} /><${Score} rows=${rows} /></div>
    <div class="scrolled" ref=${box} onScroll=${event => setTop(event.target.scrollTop)} role="list" aria-label="Episodes" tabindex="0">
      <div style=${{ height: `${rows.length * ROW}px`, position: "relative" }}>
        ${shown.map((row, k) => html`<div key=${row.number} role="listitem" class="episode-row" style=${{ top: `${(first + k) * ROW}px` }}>
          <button class=${`episode ${row.number === episode ? "on" : ""}`} aria-current=${row.number === episode} onClick=${() => open(row)}>
            <b>Episode ${row.number}</b><${Thumb} row=${row} log=${log} schema=${logView.schema} filmed=${filmed} />
            <small>${number(row.num_steps)} steps${row.ending && `, ${row.ending}`} <${Chip} score=${scores[row.number]} /></small></button></div>`)}
      </div></div>
    ${!rows.length && html`<p class="soft">No episode matches “${find}”.</p>`}</div>`;
}

const finite = value => value === Infinity ? -1 : value;

function Chip({ score }) {
  if (score?.surprise === undefined) return null;
  const kind = score.surprise < 0.01 ? "bad" : score.surprise < 0.05 ? "unclear" : "good";
  return html`<span class=${`chip ${kind}`} title="p-value of the most surprising step, corrected for the number of steps">p ${number(score.surprise, 2)}</span>`;
}

// The first camera, or the first observed curve, in small.
function Thumb({ row, log, schema, filmed }) {
  const camera = filmed && schema.signals.find(signal => signal.kind === "image" && signal.role === "observation");
  const path = episodePath(log, row.number);
  if (camera) {
    const steps = [0, Math.floor(row.num_steps / 2), row.num_steps];
    return html`<${LogPicture} class="thumb" path=${`${path}/frames/${seg(camera.name)}?steps=${steps.join(",")}&height=30`} alt="" />`;
  }
  const curve = curves(byRole(schema, "observation"))[0];
  return curve ? html`<${Spark} path=${`${path}?points=60&signals=${seg(curve.signal.name)}`} curve=${curve} />` : html`<span></span>`;
}

function Spark({ path, curve }) {
  const { value } = useGet(path);
  if (!value) return html`<svg class="thumb" viewBox="0 0 74 34" aria-hidden="true"></svg>`;
  const ys = column(value.observations[curve.signal.name], curve.index), known = ys.filter(y => y != null);
  const low = Math.min(...known), size = Math.max(...known) - low || 1;
  const d = ys.map((y, k) => y == null ? "" : `${k ? "L" : "M"}${(74 * k / (ys.length - 1 || 1)).toFixed(1)} ${(31 - 28 * (y - low) / size).toFixed(1)}`).join("").replace(/^L/, "M");
  return html`<svg class="thumb" viewBox="0 0 74 34" aria-hidden="true"><path d=${d} /></svg>`;
}

// Computes the surprise and the error of the listed episodes, one after another, until it is stopped.
function Score({ rows }) {
  const { world, log } = usePlace();
  const [progress, set] = useState(null), stop = useRef(false);
  useEffect(() => () => { stop.current = true; }, [world, log]);
  const key = `${world} ${log}`, missing = rows.filter(row => !figures.value[key]?.[row.number]);
  if (!world || (!missing.length && progress === null)) return null;
  const run = async () => {
    stop.current = false;
    for (let k = 0; k < missing.length && !stop.current; k++) {
      set(`${k + 1} of ${missing.length}`);
      const score = await scored(world, log, missing[k]);
      figures.value = { ...figures.value, [key]: { ...figures.value[key], [missing[k].number]: score } };
    }
    set(null);
  };
  return progress === null
    ? html`<button onClick=${run} title="Computes surprise and error of these episodes, so that they can be sorted">Score</button>`
    : html`<button onClick=${() => { stop.current = true; }}>Stop (${progress})</button>`;
}

// `surprise`: least p-value of a step times the number of steps. `error`: distance from the log in half widths of the band.
async function scored(world, log, row) {
  const path = episodePath(log, row.number), query = `world=${seg(world)}`, score = {};
  try {
    const { steps } = await api.post(`${path}:surprise?${query}`, {}), known = steps.filter(value => value != null);
    if (known.length) score.surprise = Math.min(1, Math.min(...known) * known.length);
    const { card } = await api.get(`v1/worlds/${seg(world)}`), at = Math.min(card.context, row.num_steps - 1);
    const last = Math.min(row.num_steps, at + Math.min(card.band_horizon || 24, 200));
    const { signals } = await api.post(`${path}:predict?${query}&at=${at}&steps=${last - at}`, {});
    const { observations } = await api.get(`${path}?first=${at + 1}&last=${last}&points=5000`);
    const errors = Object.entries(signals).flatMap(([name, { mean, high }]) => (observations[name] ?? []).flatMap((real, k) =>
      [real].flat().map((value, c) => Math.abs(value - [mean[k]].flat()[c]) / Math.abs([high?.[k]].flat()[c] - [mean[k]].flat()[c]))));
    const finite = errors.filter(Number.isFinite);
    if (finite.length) score.error = finite.reduce((sum, value) => sum + value, 0) / finite.length;
  } catch (error) {
    score.failed = error.message; // for example an episode that is too short
  }
  return score;
}
