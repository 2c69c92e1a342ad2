// Result: one answer of a world, in a file of `worldline.save_page`.
import { useState } from "preact/hooks";
import { Chart, Lane } from "studio/lane.js";
import { Failure, html, Term, Title, Trust } from "studio/parts.js";
import { cell, column, curves, number, timeAxis } from "studio/signals.js";
import { useGet } from "studio/state.js";

const MAX_SHOWN = 24;

export default function Result() {
  const { value, error } = useGet("result"), [step, setStep] = useState(null), [all, showAll] = useState(false);
  if (!value) return html`<${Failure} error=${error} />`;
  const { title, headline, reason, trust, rows, step_s, stride, series, images, moments } = value;
  const last = Math.max(1, ...series.map(part => part.end - (part.drawn !== "held")), ...Object.values(images).map(camera => camera.total));
  const axis = timeAxis(rows === "step" ? step_s : null, last);
  const x = rows === "step" ? [0, last * axis.scale] : [-0.5, last + 0.5], label = rows === "step" ? axis.label : rows;
  const lanes = series.flatMap(part => curves([part.signal]).map(curve => ({ part, curve })));
  const shown = all ? lanes : lanes.slice(0, MAX_SHOWN), headings = [...new Set(shown.map(({ part }) => part.heading))];
  const beside = trust !== null || moments.length > 0;
  const cursor = at => setStep(at === null ? null : Math.round(at / axis.scale));
  return html`<div class=${`page ${beside ? "side" : "wide"}`}><section><h1>${title}</h1><p>${headline}</p>${reason && html`<p class="soft">${reason}</p>`}
    <${Cameras} images=${images} step=${step} axis=${axis} onStep=${setStep} />
    ${headings.map(heading => {
    const own = shown.filter(({ part }) => part.heading === heading);
    return html`<${Title} key=${heading} aside=${html`<${Legend} part=${own[0].part} />`}>${heading}<//><div class="panel">${own.map(({ part, curve }) => html`
      <${Lane} key=${curve.key} curve=${curve} value=${valueAt(part, curve, step)} note=${rows === "step" && step === null && "at the end"}><${Chart} label=${`${curve.label} over ${label}`} lines=${linesOf(part, curve, axis.scale)}
        x=${x} y=${part.logarithmic ? logRange(part) : undefined} log=${part.logarithmic} unit=${curve.unit} axis=${label} onCursor=${cursor} /><//>`)}</div>`;
  })}
    ${series.length > 0 && html`<p class="soft x-name"><span></span>${label}</p>`}
    ${lanes.length > shown.length && html`<p><button onClick=${() => showAll(true)}>Show all ${lanes.length} curves</button></p>`}
    ${stride > 1 && html`<p class="soft">The result is long, so this file has every ${ordinal(stride)} row of it.</p>`}</section>
    ${beside && html`<aside>${trust !== null && html`<${Trust} value=${trust} />`}
      ${moments.length > 0 && html`<${Title}><${Term} name="surprise">Most surprising steps<//><//><table><thead><tr><th>Step</th><th>Signals</th><th>p-value</th></tr></thead>
        <tbody>${moments.map(moment => html`<tr><th>${moment.step}</th><td>${moment.signals.join(", ")}</td><td>${number(moment.p)}</td></tr>`)}</tbody></table>`}</aside>`}</div>`;
}

const ordinal = count => count + (count === 2 ? "nd" : count === 3 ? "rd" : "th");

// The value of the row at a step, or of the last one.
function valueAt({ steps, values }, { index }, step) {
  const row = step === null ? steps.length - 1 : Math.max(0, steps.findLastIndex(known => known <= step));
  return cell(values[row], index) ?? undefined;
}

function Legend({ part }) {
  const lines = linesOf(part, { index: null }, 1).filter((line, k, all) => all.findIndex(other => other.label === line.label) === k);
  const names = lines.map(({ label, style, low }) => [label || "samples", style, low]).reverse();
  if (names.length === 1 && !names[0][2]) return null;
  return names.map(([label, style, low]) => html`<span class=${`key ${style}`} style=${{ "--key": `var(--${style})` }}>${label}${low && " with band"}</span>`);
}

// Values that hold until the next row are drawn as steps.
function linesOf({ steps, end, values, others, samples, drawn, signal }, { index }, scale) {
  const held = drawn === "held";
  const x = held ? steps.flatMap((step, k) => [step * scale, (steps[k + 1] ?? end) * scale]) : steps.map(step => step * scale);
  const y = rows => held ? column(rows, index).flatMap(value => [value, value]) : column(rows, index);
  const { low, high, ...more } = others, band = low && high ? { low: y(low), high: y(high) } : {};
  return [
    ...samples.map(rows => ({ label: "", style: "rule", dash: [], x, y: y(rows) })),
    ...Object.entries(more).map(([label, rows]) => ({ label, style: "real", x, y: y(rows) })),
    { label: more.logged ? "other actions" : drawn === "line" ? "predicted" : "value", style: signal.role === "action" ? "other0" : "world", x, y: y(values), points: drawn === "points", dash: [], ...band },
  ];
}

function logRange({ values }) {
  const known = values.flat().filter(value => value > 0);
  return [Math.min(0.01, ...known) / 1.5, 1.5];
}

// The frames of each camera, at the step under the cursor or chosen by a slider.
function Cameras({ images, step, axis, onStep }) {
  return html`<div class="pictures">${Object.entries(images).map(([name, { steps, total, frames }]) => {
    const at = steps.findLastIndex(known => known <= Math.max(step ?? 0, steps[0]));
    return html`<figure key=${name}><figcaption>${name.replaceAll("_", " ")}, ${axis.text(steps[at])} ahead</figcaption>
      <img src=${frames[at]} alt=${`${name} at step ${steps[at]}`} />
      <input type="range" min="0" max=${frames.length - 1} value=${at} aria-label=${`Frame of ${name}`} aria-valuetext=${`step ${steps[at]}`} onInput=${event => onStep(steps[+event.target.value])} />
      ${frames.length < total && html`<p class="soft">${total - frames.length} of ${total} frames were left out.</p>`}</figure>`;
  })}</div>`;
}
