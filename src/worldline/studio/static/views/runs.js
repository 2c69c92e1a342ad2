// Runs: jobs that learn and audit, with live curves.
import { useEffect, useState } from "preact/hooks";
import { api, offline, seg } from "studio/api.js";
import { Chart } from "studio/lane.js";
import { Choice, Failure, html, Page, Segments, Title, Waiting } from "studio/parts.js";
import { number, withUnit } from "studio/signals.js";
import { go, useAsked, usePlace } from "studio/state.js";

const LIST_MS = 3000, JOB_MS = 1000;
const ENDED = ["done", "failed", "cancelled"];
const STATES = { queued: "soft", running: "", done: "good", failed: "bad", cancelled: "unclear" };

// Asks again and again while the page is visible and `goesOn(value)`. `again()` asks at once.
function usePolled(path, period, goesOn) {
  const [count, tick] = useState(0), again = () => tick(last => last + 1);
  const asked = useAsked(path && `${path} ${count}`, () => api.get(path), path ?? "");
  const isLive = !offline && path && !asked.busy && asked.value && goesOn(asked.value);
  useEffect(() => {
    if (!isLive) return undefined;
    const timer = setInterval(() => document.hidden || again(), period);
    const shown = () => document.hidden || again();
    document.addEventListener("visibilitychange", shown);
    return () => { clearInterval(timer); document.removeEventListener("visibilitychange", shown); };
  }, [isLive, count]);
  return { ...asked, again };
}

export default function Runs({ logs }) {
  const { job } = usePlace(), list = usePolled("v1/jobs", LIST_MS, ({ jobs }) => jobs.some(each => !ENDED.includes(each.status)));
  if (list.error?.status === 403) return html`<${Missing}>Your token lacks the scope <code>job</code>. Ask the operator of the service for a token with it.<//>`;
  if (list.error?.status === 404) return html`<${Missing}>This service runs no jobs, because it has no database. Start it with one: <code>worldline serve WORLD --data LOGS</code><//>`;
  const jobs = list.value?.jobs ?? [], chosen = job ?? jobs[0]?.id;
  return html`<div class="page runs"><aside><${Title}>Jobs<//>${!list.value && !list.error && html`<${Waiting} />`}<${Failure} error=${list.error} />
      ${list.value && !jobs.length && html`<p class="soft">There are no jobs yet.</p>`}
      <ul class="jobs">${jobs.map(each => html`<li key=${each.id}><button class=${`episode ${each.id === chosen ? "on" : ""}`} aria-current=${each.id === chosen} onClick=${() => go({ job: each.id })}>
        <b>${titleOf(each)}</b><small><${State} job=${each} /> ${moment(each.created)}</small></button></li>`)}</ul></aside>
    <section>${chosen ? html`<${Job} key=${chosen} id=${chosen} onChange=${list.again} />` : html`<p class="soft">A job learns a world from a log, or audits a world on a log. Start the first one with the form.</p>`}</section>
    <aside>${!offline && html`<${NewJob} logs=${logs} onStart=${started => { go({ job: started.id }); list.again(); }} />`}</aside></div>`;
}

const Missing = ({ children }) => html`<div class="page wide"><section><div class="warn"><b>No jobs here</b><p>${children}</p></div></section></div>`;
const titleOf = ({ kind, arguments: request }) => kind === "learn" ? `Learn ${request.name}` : `Audit ${request.world}`;
const State = ({ job: { status, progress } }) => html`<span class=${`chip ${STATES[status]}`}>${status}${status === "running" && progress?.total > 1 ? ` ${Math.round(100 * progress.step / progress.total)} %` : ""}</span>`;
const moment = seconds => new Date(1000 * seconds).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
const lasted = seconds => seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${number(seconds / 3600, 2)} h`;

function Job({ id, onChange }) {
  const path = `v1/jobs/${seg(id)}`, { value: job, error, again } = usePolled(path, JOB_MS, each => !ENDED.includes(each.status));
  const [failure, fail] = useState(null), status = job?.status;
  useEffect(() => { if (ENDED.includes(status)) onChange(); }, [status]);
  if (!job) return error ? html`<${Failure} error=${error} />` : html`<${Waiting} />`;
  const act = ask => () => ask().then(() => { fail(null); again(); onChange(); }, fail);
  const { kind, arguments: request, progress, created, started, finished } = job, isEnded = ENDED.includes(status);
  return html`<h1>${titleOf(job)}</h1><div class="bar"><${State} job=${job} />
      <span class="soft">on ${request.logs}${kind === "learn" ? `, recipe ${request.recipe}${request.budget ? `, at most ${request.budget}` : ""}` : ""}, seed ${request.seed}</span>
      ${!offline && !isEnded && html`<button onClick=${act(() => api.remove(path))}>Cancel</button>`}
      ${!offline && isEnded && status !== "done" && html`<button class="main" onClick=${act(() => api.post(`${path}:resume`))}>${kind === "learn" ? "Resume" : "Run again"}</button>`}</div>
    <p class="soft">Accepted ${moment(created)}${started ? `, started ${moment(started)}` : ", waits for a worker"}${finished && started ? `, ended after ${lasted(finished - started)}` : ""}.</p>
    <${Failure} error=${failure ?? error} />
    ${job.error && html`<div class="warn bad" role="alert"><b>The job failed</b><p>${job.error.message}</p></div>`}
    ${progress && !isEnded && html`<p role="status" class="stage">${progress.stage}${progress.total > 1 ? `, ${number(progress.step, 9)} of ${number(progress.total, 9)} steps` : ""}${progress.loss != null ? `, loss ${number(progress.loss)}` : ""}</p>
      <progress max=${progress.total} value=${progress.total > 1 ? progress.step : undefined} aria-label="Steps of the stage"></progress>`}
    ${progress?.losses?.length > 1 && html`<${Losses} losses=${progress.losses} />`}
    ${status === "done" && html`<${Finished} path=${path} kind=${kind} />`}`;
}

function Losses({ losses }) {
  const x = losses.map(([step]) => step), y = losses.map(([, loss]) => loss), isPositive = y.every(loss => loss === null || loss > 0);
  const known = y.filter(loss => loss !== null), log = isPositive && Math.max(...known) > 20 * Math.min(...known);
  return html`<${Title} aside="of the training, per update">Loss<//><${Chart} label="Loss over updates" lines=${[{ label: "loss", style: "world", x, y }]} x=${[x[0], x.at(-1)]}
    y=${log ? [Math.min(...known) / 1.2, Math.max(...known) * 1.2] : undefined} log=${log} axis="updates" height=${220} /><p class="soft x-name"><span></span>updates</p>`;
}

function Finished({ path, kind }) {
  const { value, error } = useAsked(`${path}/result`, () => api.get(`${path}/result`)), [open, setOpen] = useState(false);
  return html`<${Failure} error=${error} />${value && (kind === "learn" ? html`<${Learned} ...${value} />` : html`<${Audited} ...${value} />`)}
    <details onToggle=${event => setOpen(event.target.open)}><summary>Report</summary>${open && html`<${Page} path=${`${path}/report`} title="Report of the job" />`}</details>`;
}

const UNITS = { s: "s", gb: "GB" };

function Learned({ world, figures = {} }) {
  const shown = Object.entries(figures).filter(([, figure]) => ["number", "string"].includes(typeof figure)).map(([name, figure]) => {
    const [, start, end] = name.match(/^(.+)_(s|gb)$/) ?? [null, name];
    return [start.replaceAll("_", " "), typeof figure === "number" ? withUnit(figure, UNITS[end]) : figure];
  });
  return html`${world && html`<${Serve} reference=${world} />`}<${Title}>Figures<//><dl class="narrow">${shown.map(([name, text]) => html`<dt>${name}</dt><dd>${text}</dd>`)}</dl>`;
}

const Audited = ({ decision: { advice, reasons, limits } }) => html`<${Title}>Advice<//><div class="big">${advice}</div>
  <ul>${[...reasons, ...limits].map(reason => html`<li>${reason}</li>`)}</ul>`;

// Administrators can serve a learned world. Only they may see the usage, so that tells whether the caller is one.
function Serve({ reference }) {
  const { value } = useAsked("usage", () => api.get("v1/usage?days=1").then(() => true, () => false)), [name] = reference.split("@");
  const [note, tell] = useState(null), [failure, fail] = useState(null);
  const serve = () => api.post("v1/worlds", { name, reference }).then(() => { fail(null); tell(`Served as ${name}. Reload the page to choose it.`); }, fail);
  return html`<p>The world is in the catalog as <b>${reference}</b>. ${value && !offline && !note && html`<button class="main" onClick=${serve}>Serve this world</button>`} <span role="status">${note}</span></p><${Failure} error=${failure} />`;
}

function NewJob({ logs, onStart }) {
  const { world, log } = usePlace(), [form, set] = useState({ kind: "learn", seed: "0" }), [failure, fail] = useState(null), [busy, setBusy] = useState(false);
  const input = name => event => set(last => ({ ...last, [name]: event.target.value }));
  const { kind, seed } = form, logName = form.logs ?? log ?? logs[0];
  const start = event => {
    event.preventDefault();
    setBusy(true);
    const body = { kind, logs: logName, seed: Math.trunc(+seed) || 0, ...(kind === "audit" ? { world } : { name: form.name ?? "", ...(form.recipe && { recipe: form.recipe }), ...(form.budget && { budget: form.budget }) }) };
    api.post("v1/jobs", body).then(onStart, fail).then(() => setBusy(false));
  };
  if (!logs.length) return html`<${Title}>New job<//><p class="soft">No log was opened, so no job can start. Start the service with logs: <code>worldline serve WORLD --data LOGS</code></p>`;
  const field = (name, label, hint, rest = {}) => html`<label class="field">${label}<input value=${form[name] ?? ""} onInput=${input(name)} placeholder=${hint} ...${rest} /></label>`;
  return html`<${Title}>New job<//><form class="job-form" onSubmit=${start}><${Segments} label="Kind of job" value=${kind} options=${[["learn", "Learn"], ["audit", "Audit"]]} onChange=${chosen => set({ ...form, kind: chosen })} />
    <${Choice} label="Log" value=${logName} options=${logs.map(name => [name, name])} onChange=${chosen => set({ ...form, logs: chosen })} />
    ${kind === "learn" ? html`${field("name", "Name in the catalog", "my-world", { required: true })}${field("recipe", "Recipe", "auto")}${field("budget", "Time for the training", "such as 10min")}`
    : html`<p class="soft">World: <b>${world}</b>. Choose another one in the header.</p>`}
    ${field("seed", "Seed", "0", { type: "number", min: 0 })}<button class="main" disabled=${busy}>${kind === "learn" ? "Learn" : "Audit"}</button><${Failure} error=${failure} /></form>`;
}
