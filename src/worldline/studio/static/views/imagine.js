// Imagine: the future of one present under inputs that are drawn.
import { useEffect, useState } from "preact/hooks";
import { seg } from "studio/api.js";
import { EpisodeList } from "studio/episodes.js";
import { Chart, InputLane, Lane } from "studio/lane.js";
import { Code, Failure, Field, Frame, html, LogPicture, Segments, Term, Title, Trust, Waiting } from "studio/parts.js";
import { aheadLine, compare, edit, logLines, MAX_STEPS, middle, useFuture, usePictures, usePresent } from "studio/present.js";
import { byRole, cell, clamp, curves, MAX_LANES, number, withUnit } from "studio/signals.js";
import { go, usePlace } from "studio/state.js";
import { TimePanel } from "studio/time.js";

const LEVELS = [[0.5, "50 %"], [0.8, "80 %"], [0.9, "90 %"]];
let drawings = 0;

export default function Imagine() {
  const place = usePlace(), present = usePresent(place), { card, schema, ready } = present;
  const level = place.level ?? Math.min(0.9, card?.band_level || 0.9);
  const future = useFuture(place.world, present, card?.band_horizon ? { level } : {});
  const pictures = usePictures(place.world, present);
  const [cursor, setCursor] = useState(null);
  useEffect(() => { if (future.value) document.documentElement.dataset.predicted = String(++drawings); }, [future.value]);
  return html`<div class="page"><aside><${Title}>Episodes<//><${EpisodeList} /></aside>
    <section><${Failure} error=${present.error} />
      ${!card ? !present.error && html`<${Waiting} />` : html`<${Toolbar} present=${present} level=${level} />
        <${TimeOrStart} present=${present} />
        ${ready && html`<${Pictures} present=${present} futures=${[["predicted", pictures]]} cursor=${cursor} />
          <${Lanes} present=${present} prediction=${future.value} onCursor=${setCursor} />
          <${Inputs} present=${present} />`}`}
      <${Failure} error=${future.error} /></section>
    <aside>${ready && html`<${Findings} present=${present} prediction=${future.value} cursor=${cursor} />`}</aside></div>`;
}

// The number of predicted steps.
export function Horizon({ present: { horizon, axis }, most = MAX_STEPS, children }) {
  const change = steps => go({ steps: steps === undefined ? undefined : clamp(Math.trunc(steps) || 1, 1, most) });
  return html`<div class="bar"><label class="choice"><span class="soft">Horizon</span><${Field} label="Horizon in steps" min="1" step="1" max=${most} value=${horizon} onChange=${change} />
    <span class="soft">steps${axis && axis.label !== "steps" ? `, ${axis.text(horizon)}` : ""}</span></label>${children}</div>`;
}

export function Toolbar({ present, level, children }) {
  const levels = LEVELS.filter(([value]) => value <= (present.card.band_level || 0) + 1e-9);
  return html`<${Horizon} present=${present}>${children}
    ${levels.length > 0 && html`<span class="choice"><span class="soft"><${Term} name="band">Band<//></span><${Segments} label="Level of the band" value=${level} options=${levels} onChange=${value => go({ level: value })} /></span>`}
    ${levels.length === 0 && html`<span class="soft">This world has no calibrated bands.</span>`}<//>`;
}

export function TimeOrStart({ present }) {
  if (present.path || !present.ready) return html`<${TimePanel} present=${present} />`;
  const { start = {} } = usePlace();
  const set = (signal, index, value) => {
    const values = start[signal.name] ?? middle(signal);
    go({ start: { ...start, [signal.name]: index === null ? value : values.map((old, k) => k === index ? value : old) } });
  };
  return html`<fieldset class="start"><legend>Present</legend>${curves(byRole(present.schema, "observation")).map(({ key, signal, index, label, unit, low, high }) => html`
    <label key=${key}>${label} <${Field} label=${`${label}, now`} min=${low} max=${high} value=${cell(present.observed[signal.name][0], index)} onChange=${value => set(signal, index, value ?? 0)} /> ${unit}</label>`)}</fieldset>`;
}

// Logged pictures, and those of `futures` [[label, {camera: frames}]], at the cursor.
export function Pictures({ present, futures, cursor }) {
  const { schema, now, path, axis } = present;
  const cameras = byRole(schema, "observation").filter(signal => signal.kind === "image");
  if (!cameras.length || !path) return null;
  const step = cursor === null ? 0 : Math.round(cursor / axis.scale) - now, real = clamp(now + step, 0, present.total);
  return html`<div class="pictures">${cameras.map(({ name }) => html`<figure key=${name}><figcaption>${name}, logged, step ${real}</figcaption>
      <${LogPicture} path=${`${path}/frames/${seg(name)}?steps=${real}&height=160`} alt=${`${name} at step ${real}`} /></figure>
    ${futures.map(([label, images]) => images?.[name] && html`<figure key=${name + label}><figcaption>${label}, ${axis.text(Math.max(1, step))} ahead</figcaption>
      <${Frame} array=${images[name]} at=${Math.max(0, step - 1)} label=${`${name}, ${label}`} /></figure>`)}`)}</div>`;
}

// `only` names signals, `real` what is measured after the present if that is no log; `cursor` is a second time line.
// `more`, `draw` and `below` depend on the curve: further lines, what drawing does, and a part under the chart.
export function Lanes({ present, prediction, onCursor, onPick, dreamed = "predicted", title = "Predicted signals", only, logged = true, real, cursor = null, more, draw, below }) {
  const { show } = usePlace(), { schema, card, first, now, horizon, axis } = present;
  const all = curves(only ? only.map(name => schema.signals.find(signal => signal.name === name)) : schema.signals.filter(signal => card.predicts.includes(signal.name)));
  const shown = show && !only ? all.filter(curve => show.includes(curve.key)) : all.slice(0, MAX_LANES);
  const x = [first * axis.scale, (now + horizon) * axis.scale], styles = new Map();
  return html`<${Title} aside=${!only && all.length > 1 && html`<${Chooser} all=${all} shown=${shown} />`}>${title}<//>
    <div class="panel">${shown.map((curve, k) => {
    const forecast = prediction?.signals[curve.signal.name], known = logLines(present, curve, real);
    const lines = [...logged ? known : known.slice(0, 1), ...more?.(curve) ?? []], isLast = k === shown.length - 1, bare = Boolean(below) || !isLast;
    if (forecast) lines.push(aheadLine(present, curve, forecast.mean, { label: dreamed, style: "world" }, forecast));
    for (const { label, style, x: { length } } of lines) if (label && length) styles.set(label, style);
    return html`<${Lane} key=${curve.key} curve=${curve} value=${(real ? known.at(-1) : known[0]).y.at(-1)}><${Chart} label=${`${curve.label} over time`} lines=${lines} x=${x}
      now=${[now * axis.scale, cursor]} unit=${curve.unit} axis=${axis.label} onCursor=${onCursor} onPick=${onPick} onDraw=${draw?.(curve)} bare=${bare} height=${bare ? 92 : 116} />${below?.(curve, isLast)}<//>`;
  })}</div><p class="soft x-name"><span>${[...styles].map(([label, style]) => html`<span class=${`key ${style}`} key=${label} style=${{ "--key": `var(--${style})` }}>${label}</span>`)}</span>
      ${axis.label} from ${present.path ? "the start of the episode" : "now"}</p>`;
}

// Which curves are shown; `name` is the part of the place that lists them.
export function Chooser({ all, shown, name = "show" }) {
  const keys = shown.map(curve => curve.key);
  const toggle = key => go({ [name]: keys.includes(key) ? keys.filter(other => other !== key) : all.map(curve => curve.key).filter(other => other === key || keys.includes(other)) });
  return html`<details class="chooser"><summary>${shown.length} of ${all.length} shown</summary><div>${all.map(curve => html`<label key=${curve.key}>
    <input type="checkbox" checked=${keys.includes(curve.key)} onChange=${() => toggle(curve.key)} /> ${curve.label}</label>`)}</div></details>`;
}

// The roles `fixed` are only shown, with the values of the log.
export function Inputs({ present, fixed = [], title: actions = "Actions from now on" }) {
  const { edits } = usePlace(), { lanes, first, now, horizon, axis, isEdited } = present;
  const x = [first * axis.scale, (now + horizon) * axis.scale];
  const group = (role, title, aside) => {
    const own = lanes.filter(lane => lane.role === role && lane.curve.signal.num_values !== 1), isFixed = fixed.includes(role);
    return own.length > 0 && html`<${Title} aside=${aside}>${title}<//><div class="panel">${own.map((lane, k) => html`<${InputLane} key=${lane.curve.key} curve=${lane.curve} past=${lane.before}
      future=${isFixed ? lane.logged : lane.future} scale=${axis.scale} now=${now} x=${x} axis=${axis.label} bare=${k < own.length - 1} onEdit=${isFixed ? null : values => edit(edits, lane.curve, values)} />`)}</div>`;
  };
  return html`${group("action", actions, !fixed.includes("action") && "draw the curves, or move a slider")}
    ${group("exogenous", html`<${Term} name="exogenous">Exogenous inputs<//>`, fixed.includes("exogenous") ? "as logged" : "as logged, or drawn")}
    ${isEdited && html`<p><button onClick=${() => go({ edits: undefined })}>${present.path ? "As logged again" : "Reset"}</button></p>`}`;
}

function Findings({ present, prediction, cursor }) {
  const place = usePlace(), { schema, card, now, first, horizon, axis, observed, total } = present;
  if (!prediction) return html`<${Waiting}>Predicting<//>`;
  const all = curves(schema.signals.filter(signal => prediction.signals[signal.name])).slice(0, 2 * MAX_LANES);
  const step = cursor === null ? horizon : Math.round(cursor / axis.scale) - now, row = Math.min(horizon, Math.max(1, step)) - 1;
  const weak = Object.entries(prediction.signals).filter(([, forecast]) => forecast.horizon < horizon);
  return html`<${Trust} value=${prediction.trust} />
    ${weak.length > 0 && html`<div class="warn"><b>${axis.text(Math.max(...weak.map(([, forecast]) => forecast.horizon)))}</b>
      <p>After at most this time the forecast of ${weak.map(([name]) => name.replaceAll("_", " ")).join(", ")} is no better than the last value or the mean.</p></div>`}
    <${Title}>${cursor === null || step < 1 ? `After ${axis.text(horizon)}` : `In ${axis.text(row + 1)}`}<//>
    <dl>${all.map(curve => {
    const { mean, low, high } = prediction.signals[curve.signal.name], lowest = cell(low?.[row], curve.index), highest = cell(high?.[row], curve.index);
    return html`<dt>${curve.label}</dt><dd>${withUnit(cell(mean[row], curve.index), curve.unit)}${lowest != null && html`<span class="soft">${number(lowest)} to ${number(highest)}</span>`}</dd>`;
  })}</dl>
    ${total > now && html`<${Title} aside="root mean square error">Compared with the log<//><dl>${all.map(curve => {
    const result = compare(prediction.signals[curve.signal.name], (observed[curve.signal.name] ?? []).slice(now - first + 1), curve.index);
    return result && html`<dt>${curve.label}</dt><dd>${withUnit(result.rmse, curve.unit)}<span class="soft">${Math.round(100 * result.inside)} % inside the band</span></dd>`;
  })}</dl>${present.isEdited && html`<p class="soft">The log has other inputs than this future.</p>`}`}
    <${Title}>The same in Python<//><${Code}>${python(place, card, present)}<//>`;
}

function python({ world, log }, card, { path, now, horizon, isEdited }) {
  const address = new URL(`v1/worlds/${seg(world)}`, document.baseURI).href;
  const open = `world = worldline.open("${address.startsWith("http") ? address : world}")`;
  if (!path) return `${open}\np = world.predict(history, actions)\np.plot()`;
  const lines = [open, `episode = worldline.open_store("${log}").episode(${path.split("/").at(-1)})`, `history = episode.history(at=${now}, length=${card.context})`];
  lines.push(isEdited ? "actions = ...  # as drawn" : `actions = {name: a[${now}:${now + horizon}] for name, a in episode.actions.items()}`);
  return [...lines, "p = world.predict(history, actions)", "p.plot()"].join("\n");
}
