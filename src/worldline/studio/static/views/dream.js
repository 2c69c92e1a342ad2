// Log and dream: an episode, and next to it the world that continues alone with the same actions.
import { useEffect, useState } from "preact/hooks";
import { EpisodeList } from "studio/episodes.js";
import { Errors, pairs } from "studio/errors.js";
import { Chart, Lane } from "studio/lane.js";
import { Choice, Failure, html, Segments, Term, Title, Waiting } from "studio/parts.js";
import { useFuture, usePictures, usePresent, useSteady } from "studio/present.js";
import { clamp, column, curves, MAX_LANES, number, timeAxis, withUnit } from "studio/signals.js";
import { go, useGet, usePlace } from "studio/state.js";
import { TimePanel } from "studio/time.js";
import Drive from "studio/views/drive.js";
import { Chooser, Lanes, Pictures, Toolbar } from "studio/views/imagine.js";

const MODES = [["log", "Log"], ["dream", "Dream"], ["both", "Both"]];
const SPEEDS = [1, 2, 5, 10, 30, 100], POINTS = 1200;
const VALUES = { observation: "observations", action: "actions", exogenous: "exogenous" };

export default function Dream() {
  const { log, mode = "both" } = usePlace(), environments = useGet("v1/environments").value?.environments ?? [];
  const options = environments.length ? [...MODES, ["drive", "Drive"]] : MODES;
  const modes = html`<${Segments} label="What is shown" value=${mode} options=${options} onChange=${value => go({ mode: value, step: undefined })} />`;
  if (mode === "drive" && environments.length) return html`<${Drive} environments=${environments} modes=${modes} />`;
  return html`<div class=${mode === "log" ? "page two" : "page"}><aside><${Title}>Episodes<//><${EpisodeList} /></aside>
    ${log ? html`<${Episode} mode=${mode} modes=${modes} />` : html`<section><div class="bar">${modes}</div><p>A dream starts in an episode. Open a log to have one.</p></section>`}</div>`;
}

// The time of all panels: the step in the place, or a step that runs while it plays.
function usePlayer(first, last, start) {
  const { step: saved, speed = "5" } = usePlace(), [head, set] = useState(null), playing = head !== null;
  const step = clamp(head ?? saved ?? start, first, last);
  const seek = to => { set(null); go({ step: clamp(to, first, last) }); };
  useEffect(() => {
    if (!playing) return undefined;
    const from = head, began = performance.now();
    const tick = now => {
      const next = from + Math.max(0, Math.floor((now - began) / 1000 * speed));
      if (next >= last) return seek(last);
      set(next);
      frame = requestAnimationFrame(tick);
    };
    let frame = requestAnimationFrame(tick);
    return () => cancelAnimationFrame(frame);
  }, [playing, speed, first, last]);
  return { step, first, last, playing, seek, speed, toggle: () => playing ? seek(step) : set(step >= last ? first : step) };
}

function Player({ player: { step, first, last, playing, seek, speed, toggle }, axis }) {
  const key = event => {
    if (event.key === " " && event.target.type === "range") event.preventDefault(), toggle();
  };
  const icon = d => html`<svg viewBox="0 0 16 16" width="12" height="12" fill="currentColor" aria-hidden="true"><path d=${d} /></svg>`;
  const button = (d, label, to) => html`<button aria-label=${label} title=${label} disabled=${to < first || to > last} onClick=${() => seek(to)}>${icon(d)}</button>`;
  return html`<div class="player" role="group" aria-label="Time" onKeyDown=${key}>
    <span class="seg">${button("M3 2h2v12H3zM14 2v12L6 8z", "One step back", step - 1)}
      <button class="main" aria-label=${playing ? "Pause" : "Play"} title="Play or pause; also the space bar" onClick=${toggle}>${icon(playing ? "M3 2h4v12H3zM9 2h4v12H9z" : "M4 1v14l10-7z")}</button>
      ${button("M2 2v12l8-6zM11 2h2v12h-2z", "One step forward", step + 1)}</span>
    <input type="range" aria-label="Time" min=${first} max=${last} value=${step} aria-valuetext=${`step ${step}, ${axis.text(step)}`} onInput=${event => seek(+event.target.value)} />
    <output>${axis.label === "steps" ? "" : `${axis.text(step)} · `}step ${step}</output>
    <${Choice} label="Speed" hidden=${true} value=${speed} options=${SPEEDS.map(value => [String(value), `${value} steps/s`])} onChange=${value => go({ speed: value })} /></div>`;
}

function Episode({ mode, modes }) {
  const place = usePlace(), present = useSteady(usePresent({ ...place, edits: undefined, inside: true })), { card, total, now, path, ready } = present;
  const level = place.level ?? Math.min(0.9, card?.band_level || 0.9);
  const dreamt = mode === "log" || now >= total ? {} : present;
  const future = useFuture(place.world, dreamt, card?.band_horizon ? { level } : {}), pictures = usePictures(place.world, dreamt);
  const whole = useGet(mode === "log" && total ? `${path}?points=${POINTS}` : null).value;
  const ends = !ready ? [0, 0] : mode === "log" ? [0, total] : [present.first, now + present.horizon];
  const player = usePlayer(...ends, mode === "log" ? 0 : now ?? 0);
  if (!ready) return html`<section><${Failure} error=${present.error} />${!present.error && html`<${Waiting} />`}</section>`;
  const axis = mode === "log" ? timeAxis(present.overview.step_s ?? card.schema.step_s, total) : present.axis, at = player.step * axis.scale;
  const pick = x => player.seek(Math.round(x / axis.scale));
  const shown = { ...present, axis, ...(mode === "log" && { now: player.step, horizon: 0 }) };
  return html`<section>${mode === "log" ? html`<div class="bar">${modes}</div>` : html`<${Toolbar} present=${present} level=${level}>${modes}<//>`}
      <${TimePanel} present=${shown} ...${mode === "log" && { onChange: player.seek, label: "Time" }} />
      <${Player} player=${player} axis=${axis} />
      <${Failure} error=${present.error ?? future.error} />
      <${Pictures} present=${shown} futures=${[["dream", pictures]]} cursor=${at} />
      ${mode === "log" ? whole && html`<${Logged} whole=${whole} present=${shown} at=${at} onPick=${pick} />`
      : html`<${Lanes} present=${present} prediction=${future.value} dreamed="dream" title=${mode === "both" ? html`Log and <${Term} name="dream">dream<//>` : html`<${Term} name="dream">Dream<//>`}
        logged=${mode === "both"} cursor=${at} onPick=${pick} below=${mode === "both" && future.value && ((curve, isLast) => html`<${Errors} curve=${curve} present=${present} forecast=${future.value.signals[curve.signal.name]} at=${at} bare=${!isLast} onPick=${pick} />`)} />`}</section>
    ${mode !== "log" && html`<aside>${future.value && html`<${Findings} present=${present} future=${future.value} step=${player.step} />`}</aside>`}`;
}

function Logged({ whole, present: { schema, axis, total }, at, onPick }) {
  const { show } = usePlace(), all = curves(schema.signals.filter(signal => signal.role in VALUES)), x = [0, total * axis.scale];
  const shown = show ? all.filter(curve => show.includes(curve.key)) : all.slice(0, 2 * MAX_LANES), xs = whole.steps.map(step => step * axis.scale);
  return html`<${Title} aside=${html`<${Chooser} all=${all} shown=${shown} />`}>The whole episode<//>
    <div class="panel">${shown.map((curve, k) => {
    const y = column(whole[VALUES[curve.signal.role]][curve.signal.name], curve.index), bare = k < shown.length - 1;
    return html`<${Lane} key=${curve.key} curve=${curve} note=${curve.signal.role === "observation" ? "" : curve.signal.role}><${Chart} label=${`${curve.label} over the episode; Enter moves the time`} x=${x} now=${[null, at]}
      lines=${[{ label: "log", style: curve.signal.role === "observation" ? "real" : "other0", x: xs, y }]} unit=${curve.unit} axis=${axis.label} height=${bare ? 76 : 100} bare=${bare} onPick=${onPick} /><//>`;
  })}</div><p class="soft x-name">${axis.label} from the start of the episode</p>`;
}

function Findings({ present, future, step }) {
  const { axis, now, schema } = present, ahead = clamp(step - now, 1, present.horizon);
  const all = curves(schema.signals.filter(signal => future.signals[signal.name])).slice(0, 2 * MAX_LANES);
  return html`<${Title}>${axis.text(ahead)} after the present<//>
    <dl>${all.map(curve => {
    const { real, dream, error } = pairs(present, future.signals[curve.signal.name], curve)[ahead - 1];
    return html`<dt key=${curve.key}>${curve.label}</dt><dd>${withUnit(dream, curve.unit)}<span class="soft">logged ${number(real)}</span><span class="soft">error ${number(error, 2)}</span></dd>`;
  })}</dl>
    <p class="soft">The line under a signal is the distance from the log. The area is half the width of the band.</p>`;
}
