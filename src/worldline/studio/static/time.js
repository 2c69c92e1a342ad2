// The time panel: the whole episode in small, with the present as a slider, and a film strip where there are cameras.
import { useRef } from "preact/hooks";
import { html, LogPicture } from "studio/parts.js";
import { seg } from "studio/api.js";
import { byRole, clamp, column, number } from "studio/signals.js";
import { go } from "studio/state.js";

const FILM = 12;

export function TimePanel({ present, onChange = at => go({ at }), label = "Present" }) {
  const { overview, marked, now, total, horizon, axis, path, schema } = present, track = useRef(null);
  if (!total || !overview) return null;
  const across = step => 100 * step / total;
  const values = marked ? column(overview.observations[marked.signal.name], marked.index) : [];
  const known = values.filter(value => value != null), low = Math.min(...known), size = Math.max(...known) - low || 1;
  const steps = overview.steps;
  const d = values.map((value, k) => value == null ? "" : `${k ? "L" : "M"}${across(steps[k]).toFixed(2)} ${(36 - 32 * (value - low) / size).toFixed(1)}`).join("").replace(/^L/, "M");
  const move = event => {
    if (event.type === "pointermove" && !event.buttons) return;
    if (event.type === "pointerdown") event.currentTarget.setPointerCapture(event.pointerId);
    const edge = track.current.getBoundingClientRect();
    onChange(clamp(Math.round((event.clientX - edge.left) / edge.width * total), 0, total));
  };
  const key = event => {
    const sizes = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -Math.ceil(total / 20), PageUp: Math.ceil(total / 20), Home: -total, End: total };
    if (!(event.key in sizes)) return;
    onChange(clamp(now + sizes[event.key], 0, total));
    event.preventDefault();
  };
  const cameras = byRole(schema, "observation").filter(signal => signal.kind === "image");
  return html`<div class="time">${cameras.map(camera => html`<${Film} key=${camera.name} camera=${camera} path=${path} total=${total} />`)}
    <div class="track" ref=${track} role="slider" tabindex="0" aria-label=${label} aria-valuemin="0" aria-valuemax=${total} aria-valuenow=${now}
      aria-valuetext=${`step ${now} of ${total}`} onPointerDown=${move} onPointerMove=${move} onKeyDown=${key}>
      <svg viewBox="0 0 100 40" preserveAspectRatio="none" aria-hidden="true"><rect class="ahead" x=${across(now)} width=${Math.max(0.2, across(Math.min(horizon, total - now)))} height="40" /><path d=${d} /></svg>
      <i style=${{ left: `${across(now)}%` }}></i></div>
    <p class="soft">${axis ? `${axis.text(now)} · ` : ""}step ${number(now, 7)} of ${number(total, 7)} · drag the line to choose the ${label.toLowerCase()}${marked ? ` · shown: ${marked.label}` : ""}</p></div>`;
}

function Film({ camera, path, total }) {
  const steps = Array.from({ length: FILM }, (_, k) => Math.round(total * k / (FILM - 1)));
  const unique = [...new Set(steps)];
  return html`<${LogPicture} class="film" path=${`${path}/frames/${seg(camera.name)}?steps=${unique.join(",")}&height=56`} alt=${`${camera.name} at ${unique.length} moments of the episode`} />`;
}
