// The frame of the studio: header, views, and what happens if one of them fails.
import { Component, render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { api, offline, setBackend, usedAnswers } from "studio/api.js";
import { Connection, html, Waiting } from "studio/parts.js";
import { saved } from "studio/saved.js";
import { go, hashOf, parse, place, useAsked, usePlace, useWorld, useWorlds, writePlace } from "studio/state.js";
import { timeAxis } from "studio/signals.js";
import Dream from "studio/views/dream.js";
import Evidence from "studio/views/evidence.js";
import Home from "studio/views/home.js";
import Imagine from "studio/views/imagine.js";
import Plan from "studio/views/plan.js";
import Result from "studio/views/result.js";
import Runs from "studio/views/runs.js";
import Surprise from "studio/views/surprise.js";
import WhatIf from "studio/views/what_if.js";

const VIEWS = {
  home: ["Home", Home],
  imagine: ["Imagine", Imagine],
  dream: ["Log and dream", Dream],
  "what-if": ["What if", WhatIf],
  plan: ["Plan", Plan],
  surprise: ["Surprise", Surprise],
  evidence: ["Evidence", Evidence],
  runs: ["Runs", Runs],
  result: ["Result", Result],
};
// A file has the view that was saved; a world in a file has those that it can answer. Only a file of `save_page` has the
// view of a result.
const PLAYED = ["home", "imagine", "what-if", "plan"];
const savedView = saved?.answers && parse(saved.place).view;
const listed = Object.entries(VIEWS).filter(([name]) => savedView ? name === savedView : saved?.world ? PLAYED.includes(name) : name !== "result");

class Guarded extends Component {
  constructor() {
    super();
    this.state = { error: null };
  }

  componentDidCatch(error) {
    console.error(error);
    this.setState({ error });
  }

  render({ children }) {
    if (!this.state.error) return children;
    return html`<div class="warn bad" role="alert"><b>This view failed</b><p>${this.state.error.message}</p>
      <button onClick=${() => this.setState({ error: null })}>Try again</button></div>`;
  }
}

function Header({ worlds }) {
  const now = usePlace(), [note, tell] = useState("");
  const chosen = worlds.find(world => world.name === now.world), card = useWorld(now.world).value?.card;
  const horizon = card?.band_horizon ? `${timeAxis(card.schema.step_s, card.band_horizon).text(card.band_horizon)} horizon` : "";
  const copy = async () => {
    writePlace();
    await navigator.clipboard.writeText(location.href).then(() => tell("Copied"), () => tell("Copy the address of this page"));
  };
  const pick = event => go({ world: event.target.value, edits: undefined, show: undefined, level: undefined });
  return html`<header><a class="mark" href=${savedView ? undefined : "#/home"}>worldline</a>
    ${worlds.length > 0 && html`<label class="pick"><span class="unseen">World</span><select value=${now.world} onChange=${pick}>
      ${worlds.map(world => html`<option key=${world.name} value=${world.name} selected=${world.name === now.world}>${world.name}</option>`)}</select>
      <small>${[chosen?.version && `v${chosen.version}`, card?.notes.recipe ?? chosen?.engine, horizon].filter(Boolean).join(" · ")}</small></label>`}
    <nav aria-label="Views">${listed.length > 1 && listed.map(([name, [title]]) => html`<a key=${name} href=${hashOf({ ...now, view: name })} class=${now.view === name ? "on" : ""}
      aria-current=${now.view === name ? "page" : undefined} onClick=${event => { event.preventDefault(); go({ view: name }); }}>${title}</a>`)}</nav>
    <span class="right"><span class="soft" role="status">${note}</span>${!offline && html`<button class="hide" onClick=${copy}>Copy link</button>
      <button class="main" onClick=${save}>Save as file</button>`}</span></header>`;
}

// The view with the answers that it used, in one file.
async function save() {
  const content = { title: document.title, place: hashOf(place.value), answers: usedAnswers() };
  const page = await api.file();
  const text = JSON.stringify(content).replaceAll("<", "\\u003c");
  const whole = page.replace('id="saved"></script>', () => `id="saved">${text}</script>`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([whole], { type: "text/html" }));
  link.download = `${[place.value.world, place.value.view].filter(Boolean).join("-")}.html`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function Studio() {
  const now = usePlace(), { value, error } = useWorlds();
  const logs = useAsked("logs", () => api.get("v1/logs").catch(failure => {
    if (failure.code === "unreachable" || failure.status === 401) throw failure;
    return { logs: [] }; // the caller may not see logs, or there are none
  }));
  const worlds = value?.worlds ?? [];
  useEffect(() => {
    const chosen = {};
    if (worlds.length && !worlds.some(world => world.name === now.world)) chosen.world = worlds[0].name;
    const names = logs.value?.logs ?? [];
    if (names.length && !names.includes(now.log)) Object.assign(chosen, { log: names[0], episode: now.log ? 0 : now.episode ?? 0 });
    else if (now.log && now.episode === undefined) chosen.episode = 0;
    if (Object.keys(chosen).length) go(chosen, { push: false });
  }, [value, logs.value, now.world, now.log, now.episode]);
  const [title, View] = VIEWS[now.view] ?? VIEWS.home;
  document.title = saved?.title ?? [now.world, title, "worldline"].filter(Boolean).join(" · ");
  const isReady = value && logs.value && (!worlds.length || now.world);
  return html`<a class="skip" href="#content">To the content</a><${Header} worlds=${worlds} /><${Connection} />
    <main id="content" tabindex="-1">${isReady ? html`<${Guarded} key=${now.view}><${View} logs=${logs.value.logs} worlds=${worlds} /><//>`
    : error && error.code !== "unreachable" ? html`<div class="warn bad" role="alert"><p>${error.message}</p></div>` : html`<${Waiting} />`}</main>`;
}

if (saved?.world) setBackend(await (await import("studio/play.js")).createLocalWorld(saved.world));
render(html`<${Studio} />`, document.getElementById("studio"));
