// Lanes: one curve over time each, with a label at the left. Action lanes can be drawn on.
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "studio/parts.js";
import { clamp, number, rangeOf, withUnit } from "studio/signals.js";

const TABLE_ROWS = 24;

// A chart of lines [{label, style, x, y, low, high}] that can be read by keyboard, pointer and screen reader.
export function Chart({ label, lines, x, y, now = null, unit = "", axis = "steps", onCursor, onDraw, onPick, height = 112, bare = false, table = true, log = false }) {
  const box = useRef(null), drawn = useRef(null), state = useRef({});
  const [spoken, speak] = useState("");
  const shown = lines.filter(line => line.x.length).map(line => ({ low: [], high: [], points: false, ...line }));
  const chart = { lines: shown, x, y: y ?? rangeOf(shown.flatMap(line => [line.y, line.low, line.high])), now, bare, ticks: log ? decades(y) : [], gaps: [], log };
  state.current = { chart, onCursor, onDraw };
  const cursorMoved = u => state.current.onCursor?.(u.cursor.left < 0 || u.cursor.idx == null ? null : u.data[0][u.cursor.idx]);
  const draw = () => {
    drawn.current?.destroy();
    drawn.current = box.current.clientWidth && shown.length ? drawChart(box.current, state.current.chart, cursorMoved) : null;
  };
  useEffect(() => {
    if (drawn.current?.fits(chart)) drawn.current.show(chart);
    else draw();
  });
  useEffect(() => {
    const watch = new ResizeObserver(() => {
      if (!box.current) return; // it was removed
      const { clientWidth: width, clientHeight } = box.current;
      if (drawn.current && width) drawn.current.setSize({ width, height: clientHeight });
      else if (width) draw();
    });
    watch.observe(box.current);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", draw);
    return () => { watch.disconnect(); dark.removeEventListener("change", draw); drawn.current?.destroy(); };
  }, []);

  const at = event => {
    const u = drawn.current, edge = u.over.getBoundingClientRect();
    return [u.posToVal(event.clientX - edge.left, "x"), u.posToVal(event.clientY - edge.top, "y")];
  };
  const pointer = event => {
    if (!onDraw || !drawn.current || (event.type === "pointermove" && !event.buttons)) return;
    if (event.type === "pointerdown") event.currentTarget.setPointerCapture(event.pointerId);
    onDraw(...at(event), event.type === "pointerdown");
    event.preventDefault();
  };
  const key = event => {
    const u = drawn.current, sizes = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 };
    if (!u) return;
    if (event.key in sizes) {
      const last = u.data[0].length - 1, index = clamp((u.cursor.idx ?? 0) + sizes[event.key], 0, last);
      u.setCursor({ left: u.valToPos(u.data[0][index], "x"), top: 1 });
      const parts = state.current.chart.lines.filter(line => line.label).map(line => `${line.label} ${withUnit(line.y[nearest(line.x, u.data[0][index])], unit)}`);
      speak(`${number(u.data[0][index])} ${axis}: ${parts.join(", ")}`);
    } else if (onPick && event.key === "Enter") {
      onPick(u.data[0][u.cursor.idx ?? 0]);
    } else if (onDraw && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      onDraw(u.data[0][u.cursor.idx ?? 0], null, true, event.key === "ArrowUp" ? 1 : -1);
    } else return;
    event.preventDefault();
  };
  return html`<div class="chart-part">
    <div class="plot live" ref=${box} style=${{ height: `${height}px` }} tabindex="0" role=${onDraw ? "application" : "figure"} aria-label=${label}
      aria-roledescription=${onDraw ? "editable curve" : "chart"} onPointerDown=${pointer} onPointerMove=${pointer} onKeyDown=${key}
      onClick=${event => onPick && drawn.current && onPick(at(event)[0])}></div>
    <span class="unseen" aria-live="polite">${spoken}</span>
    ${table && html`<${Numbers} label=${label} lines=${shown.filter(line => line.label)} unit=${unit} axis=${axis} />`}
  </div>`;
}

const decades = ([low, high]) => Array.from({ length: 1 + Math.floor(Math.log10(high)) - Math.ceil(Math.log10(low)) }, (_, k) => {
  const value = 10 ** (Math.ceil(Math.log10(low)) + k);
  return [value, number(value)];
});

function nearest(values, x) {
  let best = 0;
  for (let k = 1; k < values.length; k++) if (Math.abs(values[k] - x) < Math.abs(values[best] - x)) best = k;
  return best;
}

// The numbers of a chart, page by page.
function Numbers({ label, lines, unit, axis }) {
  const [open, setOpen] = useState(false), [page, turn] = useState(0);
  const rows = () => [...new Set(lines.flatMap(line => line.x))].sort((a, b) => a - b);
  const xs = open ? rows() : [], pages = Math.max(1, Math.ceil(xs.length / TABLE_ROWS));
  const value = (line, x) => {
    const k = line.x.indexOf(x);
    if (k < 0) return "";
    return line.low.length && line.low[k] != null ? `${number(line.y[k])} (${number(line.low[k])} to ${number(line.high[k])})` : number(line.y[k]);
  };
  return html`<details class="numbers" onToggle=${event => setOpen(event.target.open)}><summary>Table<span class="unseen"> of ${label}</span></summary>
    ${open && html`<table><thead><tr><th>${axis}</th>${lines.map(line => html`<th>${line.label || "value"}${unit && ` (${unit})`}</th>`)}</tr></thead>
      <tbody>${xs.slice(page * TABLE_ROWS, (page + 1) * TABLE_ROWS).map(x => html`<tr><th>${number(x)}</th>${lines.map(line => html`<td>${value(line, x)}</td>`)}</tr>`)}</tbody></table>
      ${pages > 1 && html`<p><button disabled=${page === 0} onClick=${() => turn(page - 1)}>Earlier</button> ${page + 1} of ${pages} <button disabled=${page >= pages - 1} onClick=${() => turn(page + 1)}>Later</button></p>`}`}
  </details>`;
}

// A lane: the name, the value at the cursor or now, and the chart.
export function Lane({ curve, value, note, children, kind = "" }) {
  return html`<div class=${`lane ${kind}`}><div class="lane-name"><b>${curve.label}</b>
    ${value !== undefined && html`<span class="val">${curve.names ? curve.names[Math.round(value)] ?? number(value) : number(value)} <small>${curve.unit}</small></span>`}
    ${note && html`<span class="soft">${note}</span>`}</div><div>${children}</div></div>`;
}

function fit(curve, value) {
  const inside = clamp(value, curve.low, curve.high);
  return curve.index === null ? Math.round(inside) : inside;
}

let lastStep = 0; // of the stroke that is being drawn

// `onDraw` of a chart that draws into values after the present. `onEdit` gets the new values and the step.
export function pencil({ curve, values, now, scale, range: [low, high], onEdit }) {
  return (at, value, isFirst, direction) => {
    const last = values.length - 1, step = clamp(Math.floor(at / scale + 1e-9) - now, 0, last), from = direction || isFirst ? step : lastStep;
    const size = curve.index === null ? 1 : (high - low) / 50, next = values.slice();
    // By keyboard, all later steps change.
    for (let k = Math.min(from, step); k <= (direction ? last : Math.max(from, step)); k++) next[k] = fit(curve, direction ? next[k] + direction * size : value);
    lastStep = step;
    onEdit(next, step);
  };
}

// The lane of an input after the present: drawn freely, by a slider, or by keyboard. Without `onEdit` it is only shown.
export function InputLane({ curve, past, future, scale, now, x, axis, bare, onEdit }) {
  const [low, high] = curve.low !== null && curve.high !== null ? [curve.low, curve.high] : rangeOf([past, future]);
  const draw = onEdit && pencil({ curve, values: future, now, scale, range: [low, high], onEdit });
  const held = (values, first) => ({ x: values.flatMap((_, k) => [(first + k) * scale, (first + k + 1) * scale]), y: values.flatMap(value => [value, value]) });
  const lines = [
    { label: "", style: "soft", dash: [], ...held(past, now - past.length) },
    { label: "planned", style: "other0", dash: [], ...held(future, now) },
  ];
  const bounds = curve.low !== null && curve.high !== null ? `${number(curve.low)} to ${number(curve.high)} ${curve.unit}` : curve.unit;
  const space = 0.08 * (high - low) || 1;
  const step = curve.index === null ? 1 : (high - low) / 200;
  return html`<${Lane} curve=${curve} note=${bounds} kind=${onEdit ? "act" : ""}>
    <${Chart} label=${`${curve.label}, ${curve.unit || "no unit"}${onEdit ? ": drag to draw, or use arrow keys" : ""}`} lines=${lines} x=${x} y=${[low - space, high + space]} now=${now * scale}
      unit=${curve.unit} axis=${axis} onDraw=${draw} height=${bare ? 62 : 86} bare=${bare} table=${!onEdit} />
    ${onEdit && html`<label class="slider"><span class="unseen">${curve.label}, all future steps</span>
      <input type="range" aria-label=${curve.label} min=${low} max=${high} step=${step} value=${future[0]} aria-valuetext=${withUnit(future[0], curve.unit)}
        onInput=${event => onEdit(future.map(() => fit(curve, +event.target.value)))} /></label>`}
  <//>`;
}
