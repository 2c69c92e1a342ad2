// Home: the worlds, what they predict and how far, and the episodes of a log.
import { useState } from "preact/hooks";
import { api, seg } from "studio/api.js";
import { EpisodeList } from "studio/episodes.js";
import { Choice, Code, Failure, html, Term, Title, Waiting } from "studio/parts.js";
import { episodePath } from "studio/present.js";
import { number, shownUnit, timeAxis } from "studio/signals.js";
import { go, hashOf, useAsked, useGet, useLog, usePlace, useWorld } from "studio/state.js";

const FOLDED = 12, HASH = /^[0-9a-f]{40,}$/;
const FIRST = [
  ["imagine", "Imagine", "Change the actions of a present and see the future."],
  ["plan", "Plan", "Set a goal and limits, and get actions."],
  ["evidence", "Evidence", "Read how well this world predicts."],
];
const words = name => name.replaceAll("_", " ");
const span = (card, steps) => timeAxis(card.schema.step_s, steps).text(steps);
const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

export default function Home({ worlds, logs }) {
  const { world } = usePlace();
  return html`<div class="page home"><section>
    ${worlds.length === 0 && html`<p>No world is served. Start the studio with one: <code>worldline studio WORLD LOGS</code></p>`}
    ${worlds.length > 0 && html`<${Title} aside=${worlds.length > 1 && `choose one of ${worlds.length}`}>Worlds<//>
      <div class="cards">${worlds.map(summary => html`<${WorldCard} key=${summary.name} summary=${summary} chosen=${summary.name === world} />`)}</div>
      <${World} key=${world} name=${world} />`}</section>
    <aside><${Title}>Episodes<//><${LogChoice} logs=${logs} /><${EpisodeList} /></aside></div>`;
}

function WorldCard({ summary: { name, version, engine }, chosen }) {
  const { value, error } = useWorld(name), card = value?.card;
  const choose = () => go({ world: name, edits: undefined, show: undefined, level: undefined, by: undefined });
  return html`<button class=${`card ${chosen ? "on" : ""}`} aria-pressed=${chosen} onClick=${choose}><b>${name}</b>
    <small>${[version && `v${version}`, engine].filter(Boolean).join(" · ")}</small>
    ${error ? html`<span class="bad">${error.message}</span>` : html`<small>${card ? `${card.schema.step_s ? `steps of ${span(card, 1)}` : "no time step"} · ${
      card.band_horizon ? `bands up to ${span(card, card.band_horizon)}` : "no bands"}` : "…"}</small>`}</button>`;
}

function World({ name }) {
  const place = usePlace(), { value, error } = useWorld(name), schema = useLog(place.log).value?.schema, card = value?.card;
  const fits = card && schema && card.schema.signals.every(signal => signal.role === "reward" || schema.signals.some(other => other.name === signal.name));
  const path = fits && card.band_horizon ? `${episodePath(place.log, 0)}:predict?world=${seg(name)}&steps=${card.band_horizon}` : null;
  const skill = useAsked(path, () => api.post(path, {}), name).value?.signals; // every forecast states how far its signal is skilful
  if (!card) return error ? html`<${Failure} error=${error} />` : html`<${Waiting} />`;
  const { band_horizon: bands, context, abilities, inputs, predicts, call } = card;
  const facts = [
    ["Step", card.schema.step_s ? span(card, 1) : "not timed"],
    ["Reads", `${counted(inputs.length, "signal")}, ${counted(context, "observation")} back`],
    ["Predicts", `${counted(predicts.length, "signal")}${card.action_conditioned ? "" : ", whatever the actions"}`],
    ["Abilities", abilities.map(words).join(", ") || "none"],
    ...Object.entries(card.notes),
  ];
  return html`<h1>${name}</h1>
    <div class="figures">
      <p><span class="big">${bands ? span(card, bands) : "–"}</span> <${Term} name="band">${bands ? `bands up to ${counted(bands, "step")}` : "no calibrated bands"}<//></p>
      <p><span class="big">${bands ? `${Math.floor(100 * card.band_level)} %` : "–"}</span> highest level of the bands</p>
      <p><span class="big">${call ? `${number(1000 * call.latency_s, 2)} ms` : "–"}</span> ${call ? "for one prediction" : "time of a prediction not measured"}</p></div>
    <nav class="first" aria-label="What to do first">${FIRST.map(([view, title, text]) => html`<a key=${view} href=${hashOf({ ...place, view })}><b>${title}</b> ${text}</a>`)}
      <a href="docs"><b>API</b> Ask this world from a program.</a></nav>
    <${Verdict} name=${name} />
    <${Signals} card=${card} skill=${skill} />
    <${Title}>Facts and data<//><dl>${facts.map(([term, text]) => html`<dt>${words(term)}</dt><dd title=${text}>${HASH.test(text) ? `${text.slice(0, 12)}…` : text}</dd>`)}</dl>`;
}

function Verdict({ name }) {
  const place = usePlace(), pages = useGet(`v1/worlds/${seg(name)}/pages`).value?.pages ?? [];
  return pages.length > 0 && html`<${Title}>Evidence<//><ul class="links">${pages.map(page => html`<li key=${page.name}>
    <a href=${hashOf({ ...place, view: "evidence", page: page.name })}>${page.title}</a></li>`)}</ul>`;
}

function Signals({ card, skill }) {
  const [all, show] = useState(false), { signals } = card.schema, shown = all ? signals : signals.slice(0, FOLDED);
  const reach = ({ name }) => skill?.[name] && (skill[name].horizon ? span(card, skill[name].horizon) : "none");
  return html`<${Title}>${counted(signals.length, "signal")}<//><div class="scroll" tabindex="0" role="group" aria-label="Signals"><table class="signals">
    <thead><tr><th>Signal</th><th>Role</th><th>Unit</th><th>Bounds</th>${skill && html`<th><${Term} name="horizon">Skill up to<//></th>`}</tr></thead>
    <tbody>${shown.map(signal => html`<tr key=${signal.name}><th scope="row">${words(signal.name)}</th><td>${signal.role}${card.predicts.includes(signal.name) ? ", predicted" : ""}</td>
      <td>${shownUnit(signal.unit)}</td><td>${bounds(signal)}</td>${skill && html`<td>${reach(signal)}</td>`}</tr>`)}</tbody></table></div>
    ${signals.length > FOLDED && html`<p><button onClick=${() => show(!all)}>${all ? "Fewer signals" : `All ${signals.length} signals`}</button></p>`}`;
}

function bounds({ kind, shape, low, high, num_values: size, components }) {
  if (kind === "image") return `${shape[1]} × ${shape[0]} pixels`;
  if (kind === "discrete") return components.length && size <= FOLDED ? components.join(", ") : counted(size, "value");
  const text = k => {
    const [least, most] = [low?.[k] ?? null, high?.[k] ?? null];
    if (least !== null && most !== null) return `${number(least)} to ${number(most)}`;
    return least !== null ? `at least ${number(least)}` : most !== null ? `at most ${number(most)}` : "none";
  };
  const each = [...new Set(Array.from({ length: shape[0] }, (_, k) => text(k)))];
  return `${each.slice(0, 4).join("; ")}${each.length > 4 ? "; …" : ""}${shape[0] > 1 ? ` (${shape[0]} components)` : ""}`;
}

function LogChoice({ logs }) {
  const { log, world } = usePlace(), { value } = useLog(log), card = useWorld(world).value?.card;
  if (!log) return html`<${Code}>${`worldline studio ${world ?? "WORLD"} LOGS`}<//>`;
  const lacks = (value && card?.schema.signals.filter(signal => signal.role !== "reward" && !value.schema.signals.some(other => other.name === signal.name))) || [];
  return html`${logs.length > 1 ? html`<${Choice} label="Log" value=${log} options=${logs.map(name => [name, name])}
      onChange=${name => go({ log: name, episode: 0, at: undefined, edits: undefined })} />` : html`<b>${log}</b>`}
    <p class="soft">${value ? `${counted(value.num_episodes, "episode")}, ${counted(value.num_steps, "step")}` : "…"}</p>
    ${lacks.length > 0 && html`<div class="warn"><b>Not a log of this world</b><p>It lacks ${lacks.map(signal => words(signal.name)).join(", ")}.</p></div>`}`;
}
