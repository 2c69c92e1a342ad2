// Evidence: the pages of a world, and two worlds compared on the same episodes.
import { useEffect, useRef, useState } from "preact/hooks";
import { api, seg } from "studio/api.js";
import { Choice, Failure, html, Page, Segments, Term, Title, Waiting } from "studio/parts.js";
import { number, shownUnit, timeAxis } from "studio/signals.js";
import { go, useAsked, useGet, usePlace } from "studio/state.js";

const COMPARE = "compare";

export default function Evidence({ logs, worlds }) {
  const { world, log, page, other } = usePlace(), { value, error } = useGet(`v1/worlds/${seg(world)}/pages`);
  const tabs = [...(value?.pages ?? []).map(({ name, title }) => [name, title]), [COMPARE, "Compare"]];
  const shown = tabs.some(([name]) => name === page) ? page : tabs[0][0];
  const others = worlds.map(({ name }) => name).filter(name => name !== world);
  // It begins when its tab is shown, and goes on while other tabs are shown.
  const isCompared = useRef(false);
  if (shown === COMPARE && others.includes(other)) isCompared.current = true;
  const path = isCompared.current && log && others.includes(other) ? `v1/logs/${seg(log)}/comparison?worlds=${seg(world)},${seg(other)}` : null;
  const comparison = useAsked(path, () => api.get(path), path ?? "");
  if (!value && !error) return html`<div class="page wide"><section><${Waiting} /></section></div>`;
  return html`<div class="page wide"><section class="fill"><div class="bar"><${Segments} label="Page" value=${shown} options=${tabs} onChange=${name => go({ page: name })} />
      ${value && tabs.length === 1 && html`<span class="soft">The folder of this world has no report. <code>worldline learn</code> writes one, and <code>worldline audit</code> adds an audit.</span>`}</div>
    <${Failure} error=${error} />
    ${shown !== COMPARE ? html`<${Page} key=${`${world} ${shown}`} path=${`v1/worlds/${seg(world)}/pages/${shown}`} title=${tabs.find(([name]) => name === shown)[1]} />`
    : html`<${Compared} key=${path} logs=${logs} others=${others} comparison=${comparison} />`}</section></div>`;
}

function Compared({ logs, others, comparison: { value, error, busy } }) {
  const { world, log, other } = usePlace();
  if (!others.length) return html`<p>Only one world is served. Serve a second one: <code>worldline serve WORLD OTHER --data LOGS</code></p>`;
  if (!logs.length) return html`<p>No log was opened. A comparison needs one: <code>worldline serve WORLD OTHER --data LOGS</code></p>`;
  const options = [...(others.includes(other) ? [] : [["", "choose a world"]]), ...others.map(name => [name, name])];
  return html`<div class="bar"><span><b class="letter">A</b> ${world}</span><span class="choice"><b class="letter">B</b>
      <${Choice} label="Second world" hidden value=${others.includes(other) ? other : ""} options=${options} onChange=${name => go({ other: name || undefined })} /></span>
      <${Choice} label="Log" value=${log} options=${logs.map(name => [name, name])} onChange=${name => go({ log: name, episode: 0, at: undefined, edits: undefined })} /></div>
    <${Failure} error=${error} />
    ${value ? html`<${Comparison} compared=${value} />` : busy ? html`<${Running} />` : !error && html`<p class="soft">Both worlds predict the same episodes of the log. Choose a second world to begin.</p>`}`;
}

function Running() {
  const [seconds, set] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => set(count => count + 1), 1000);
    return () => clearInterval(timer);
  }, []);
  return html`<p class="soft waiting" role="status">Both worlds predict the episodes… This can take minutes.</p><p class="soft">${seconds} s. The other tabs can be used meanwhile.</p><progress aria-label="Comparison"></progress>`;
}

const VERDICTS = { better: ["good", "A is better"], worse: ["bad", "B is better"] };
const percent = value => `${Math.round(100 * value)} %`;
const words = name => name.replaceAll("_", " ");

function Table({ label, head, children }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}><table><thead><tr>${head.map(title => html`<th>${title}</th>`)}</tr></thead><tbody>${children}</tbody></table></div>`;
}

function Comparison({ compared: { worlds, signals, step_s, horizon, context, level, num_windows, num_episodes } }) {
  const axis = timeAxis(step_s, horizon);
  const ends = signals.flatMap(({ errors }) => errors.flatMap(({ ratio }) => ratio ? [ratio.low, ratio.high] : []));
  const reach = Math.min(4, Math.max(Math.log(1.25), ...ends.map(value => Math.abs(Math.log(value))).filter(Number.isFinite)));
  const name = ({ signal, unit }) => html`<th><b>${words(signal)}</b> <span class="soft">${shownUnit(unit)}</span></th>`;
  const learned = worlds.filter(each => !each.held_out), refused = worlds.filter(each => each.num_refused);
  return html`<p>${num_windows} windows of ${num_episodes} episodes, ${context} observations before each, ${axis.text(horizon)} predicted.
      ${learned.length > 0 && ` Not held out: the training of ${learned.map(each => each.name).join(" and ")} used, or may have used, these episodes.`}
      ${refused.map(each => ` ${each.num_refused} windows without a finite prediction of ${each.name} were left out.`)}</p>
    <${Title} aside="root mean square; a ratio below 1 means that A is better">Errors<//>
    <${Table} label="Errors" head=${["Signal", "Ahead", "A", "B", "A / B, 95 % interval", html`<span class="ends"><span>A better</span><span>B better</span></span>`, "Result"]}>
      ${signals.flatMap(each => each.errors.map(({ step, errors, ratio }) => html`<tr class=${step === null ? "whole" : ""}>${step === null ? name(each) : html`<th></th>`}
        <td>${step === null ? `up to ${axis.text(horizon)}` : `after ${axis.text(step)}`}</td>${errors.map(error => html`<td>${number(error)}</td>`)}
        <td>${ratio ? `${number(ratio.value)} (${number(ratio.low)} to ${number(ratio.high)})` : "–"}</td><td class="wide-cell">${ratio && html`<${Interval} ratio=${ratio} reach=${reach} />`}</td>
        <td>${step === null && html`<span class=${`chip ${VERDICTS[each.verdict]?.[0] ?? "soft"}`}>${VERDICTS[each.verdict]?.[1] ?? each.verdict}</span>`}</td></tr>`))}<//>
    <p class="soft note">All intervals hold together with 95 % probability.</p>
    ${signals.some(each => each.bands.some(Boolean)) && html`<${Title} aside="share of whole paths inside, and mean width"><${Term} name="band">Bands<//> of ${percent(level)}<//>
      <${Table} label="Bands" head=${["Signal", "Inside, A", "Width, A", "Inside, B", "Width, B"]}>${signals.map(each => html`<tr>${name(each)}${each.bands.map(band => band
    ? html`<td>${percent(band.coverage.successes / band.coverage.trials)}</td><td>${number(2 * band.half_width)}</td>` : html`<td>–</td><td>–</td>`)}</tr>`)}<//>`}
    <${Title}>Worlds<//><${Table} label="Worlds" head=${["", "World", "Engine", html`<${Term} name="trust">Trust<//>, median`, "One prediction", "Only this world predicts"]}>
      ${worlds.map((each, k) => html`<tr><th><b class="letter">${"AB"[k]}</b></th><td>${each.name}</td><td>${each.engine}</td><td>${number(each.trust, 2)}</td><td>${number(1000 * each.latency_s)} ms</td><td>${each.only.map(words).join(", ") || "–"}</td></tr>`)}<//>`;
}

// An interval of a ratio on a logarithmic axis with 1 in the middle.
function Interval({ ratio: { value, low, high }, reach }) {
  const across = ratio => 50 + 48 * Math.max(-1, Math.min(1, ratio > 0 ? Math.log(ratio) / reach : -1));
  const kind = high < 1 ? "good" : low > 1 ? "bad" : "soft";
  return html`<svg class=${`interval ${kind}`} viewBox="0 0 100 14" preserveAspectRatio="none" aria-hidden="true"><path class="middle" d="M50 0V14" />
    <path class="whisker" d=${`M${across(low)} 7H${across(high)}`} /><path class="dot" d=${`M${across(value)} 7h0`} /></svg>`;
}
