// Small parts that views share.
import { h } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import htm from "htm";
import { api, connection, offline, setToken } from "studio/api.js";
import { pictureOf } from "studio/signals.js";
import { useAsked, useSignal } from "studio/state.js";

export const html = htm.bind(h);

const TERMS = {
  band: "Prediction interval: the whole future path lies inside with the stated probability.",
  trust: "Share of ordinary histories that look at least as unusual as this one. A small value means out of distribution.",
  surprise: "p-value of a step: small if the outcome was unlikely for this world.",
  horizon: "Last step at which the forecast beats both the last value and the mean.",
  abduction: "What was inferred from the whole episode, and kept, before other actions were predicted.",
  exogenous: "A measured input that nobody chooses, such as the weather.",
  dream: "The world continues alone: it sees no observation after the present.",
};
export const Term = ({ name, children }) => html`<abbr class="term" title=${TERMS[name]} tabindex="0">${children ?? name}</abbr>`;

export const Title = ({ children, aside }) => html`<h2>${children}${aside && html`<span class="aside"> ${aside}</span>`}</h2>`;

// The trust of a result; null if the world is not calibrated.
export const Trust = ({ value }) => html`<${Title}><${Term} name="trust">Trust in this present<//><//>
  ${value == null ? html`<p class="soft">Not calibrated, so there is no trust.</p>` : html`<div class="big">${value.toFixed(2)}</div>
    <div class="gauge"><i style=${{ width: `${100 * value}%` }}></i></div>
    <p class="soft">${Math.round(100 * value)} of 100 ordinary histories look at least as unusual as this one${value < 0.05 ? ". Do not rely on this forecast" : ""}.</p>`}`;

// What went wrong, in words, in the place of what is missing.
export function Failure({ error, retry }) {
  if (!error || error.code === "unreachable") return null;
  return html`<div class="warn bad" role="alert"><b>${error.code === "saved" ? "Not in this file" : "This did not work"}</b>
    <p>${error.message}</p>${retry && html`<button onClick=${retry}>Try again</button>`}</div>`;
}

export const Waiting = ({ children = "Loading" }) => html`<p class="soft waiting" role="status">${children}…</p>`;

export function Connection() {
  const link = useSignal(connection);
  const [text, set] = useState("");
  if (link === "ok" || offline) return null;
  if (link === "lost") return html`<div class="banner" role="alert">The service does not answer. This page continues when it returns.</div>`;
  const submit = event => { event.preventDefault(); setToken(text); };
  return html`<form class="banner" role="alert" onSubmit=${submit}><label>The service needs a token, or refuses the last one.
    <input type="password" autocomplete="off" value=${text} onInput=${event => set(event.target.value)} /></label>
    <button class="main">Continue</button></form>`;
}

export function Choice({ label, value, options, onChange, hidden = false }) {
  return html`<label class="choice"><span class=${hidden ? "unseen" : "soft"}>${label}</span>
    <select value=${value} onChange=${event => onChange(event.target.value)}>
      ${options.map(([key, text]) => html`<option key=${key} value=${key} selected=${key === value}>${text}</option>`)}</select></label>`;
}

// A number that may be left out. Text that is being typed survives a drawing of the page.
export function Field({ label, value, hint, onChange, ...rest }) {
  const [draft, setDraft] = useState(null);
  const change = ({ target }) => { setDraft(null); onChange(target.value === "" ? undefined : +target.value); };
  return html`<input type="number" step="any" aria-label=${label} title=${label} placeholder=${hint} value=${draft ?? value ?? ""} onInput=${({ target }) => setDraft(target.value)} onChange=${change} ...${rest} />`;
}

export function Segments({ label, value, options, onChange }) {
  return html`<span class="seg" role="radiogroup" aria-label=${label}>${options.map(([key, text]) => html`
    <button key=${key} type="button" role="radio" aria-checked=${key === value} class=${key === value ? "on" : ""} onClick=${() => onChange(key)}>${text}</button>`)}</span>`;
}

// A picture of a log; the sources of a moving strip stay until the next one is there.
export function LogPicture({ path, alt, ...rest }) {
  const { value, error } = useAsked(path, () => api.picture(path));
  if (error) return html`<span class="soft">no picture</span>`;
  return html`<img src=${value} alt=${alt} ...${rest} />`;
}

// A predicted picture: frame `at` of uint8 [T, height, width, channels] or of one picture.
export function Frame({ array, at = 0, label, width = 160 }) {
  const canvas = useRef(null);
  useEffect(() => {
    const { shape: [rows, columns, channels], bytes } = pictureOf(array, at);
    const picture = new ImageData(columns, rows);
    for (let k = 0; k < rows * columns; k++) {
      for (let c = 0; c < 3; c++) picture.data[4 * k + c] = bytes[k * channels + Math.min(c, channels - 1)];
      picture.data[4 * k + 3] = 255;
    }
    canvas.current.width = columns;
    canvas.current.height = rows;
    canvas.current.getContext("2d").putImageData(picture, 0, 0);
  }, [array, at]);
  return html`<canvas ref=${canvas} role="img" aria-label=${label} class="frame" style=${{ width: `${width}px` }}></canvas>`;
}

// A page of another version without its script, which the policy would block. Its charts are drawings then.
function allowedPart(page) {
  const { content } = document.querySelector("meta[name=report-script]");
  return page.includes(content) ? page : page.replace(/<script>[^]*?<\/script>/g, "");
}

// A page of the service. It runs in a sandbox, and comes over the API so that a token works.
export function Page({ path, title }) {
  const { value, error } = useAsked(path, () => api.text(path), path);
  if (error) return html`<${Failure} error=${error} />`;
  return value === undefined ? html`<${Waiting} />` : html`<iframe class="report" sandbox="allow-scripts" srcdoc=${allowedPart(value)} title=${title}></iframe>`;
}

export const Code = ({ children }) => html`<pre tabindex="0">${children}</pre>`;
