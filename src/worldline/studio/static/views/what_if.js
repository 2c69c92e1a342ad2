// What if: an episode is forked at the present, and continues under the logged and under other actions.
import { useState } from "preact/hooks";
import { api, seg } from "studio/api.js";
import { EpisodeList } from "studio/episodes.js";
import { Code, Failure, html, Term, Title, Waiting } from "studio/parts.js";
import { aheadLine, inputsOf, usePresent, useSteady } from "studio/present.js";
import { cell, curves, number, withUnit } from "studio/signals.js";
import { useAsked, usePlace } from "studio/state.js";
import { TimePanel } from "studio/time.js";
import { Horizon, Inputs, Lanes, Pictures } from "studio/views/imagine.js";

const INFERRED = {
  full: ["Causes and noise", "Hidden causes and the noise of each step were inferred from the whole episode. Both futures share them, so the logged actions lead to what was logged."],
  hidden_cause: ["Causes only", "Hidden causes that stay constant were inferred from the whole episode. Both futures share them, but not the noise of the log."],
  none: ["Nothing", "Both futures continue from the history up to the fork. What was logged later is not used."],
  predicted: ["Not available", "This world cannot answer what-if questions. Both futures are predictions from the history up to the fork, without abduction."],
};

export default function WhatIf() {
  const place = usePlace(), present = useSteady(usePresent({ ...place, inside: true })), { card, ready, path, now } = present;
  const fork = useFork(place.world, present), [cursor, setCursor] = useState(null);
  return html`<div class="page"><aside><${Title}>Episodes<//><${EpisodeList} /></aside>
    <section><${Failure} error=${present.error} />
      ${!card ? !present.error && html`<${Waiting} />` : ready && !path ? html`<p>A what-if question needs a logged episode.</p>`
      : html`<${Horizon} present=${present} most=${present.total - now} /><${TimePanel} present=${present} />
        ${ready && html`<${Pictures} present=${present} futures=${[["logged actions", fork.value?.factual], ["other actions", fork.value?.signals]]} cursor=${cursor} />
          <${Lanes} present=${present} onCursor=${setCursor} more=${linesOf(present, fork.value)} />
          <${Inputs} present=${present} fixed=${["exogenous"]} />`}`}
      <${Failure} error=${fork.error} /></section>
    <aside>${ready && path && html`<${Findings} present=${present} fork=${fork.value} failed=${fork.error} />`}</aside></div>`;
}

// Both futures {signals, factual, abduction, reason, isOther}.
function useFork(world, present) {
  const isAsked = present.ready && present.path;
  const isOther = present.lanes?.some(lane => lane.role === "action" && lane.isEdited), body = isOther ? { actions: inputsOf(present, "action") } : {};
  const to = verb => `${present.path}:${verb}?world=${seg(world)}&at=${present.now}&steps=${present.horizon}`;
  const ask = async () => {
    try {
      return { ...await api.post(to("what_if"), body), isOther };
    } catch (error) {
      if (error.code !== "unsupported" && error.code !== "saved") throw error; // a saved page has answers only
      const [signals, factual] = (await Promise.all([body, {}].map(part => api.post(to("predict"), part))))
        .map(prediction => Object.fromEntries(Object.entries(prediction.signals).map(([name, { mean }]) => [name, mean])));
      return { signals, factual, isOther, abduction: "predicted", reason: error.code === "saved" ? "" : error.message };
    }
  };
  return useAsked(isAsked ? `${to("what_if")} ${JSON.stringify(body)}` : null, ask, `${world} ${present.path} ${present.now} ${present.horizon}`);
}

// The step with the largest difference of a curve between both futures.
function largest({ signals, factual }, { signal, index }) {
  const pairs = signals[signal.name].map((row, k) => [cell(factual[signal.name][k], index), cell(row, index)]);
  const sizes = pairs.map(([logged, other]) => Math.abs(other - logged)), k = sizes.indexOf(Math.max(...sizes));
  return { step: k + 1, logged: pairs[k][0], other: pairs[k][1], difference: pairs[k][1] - pairs[k][0] };
}

// Per curve the lines of both futures, and the area between them.
function linesOf(present, fork) {
  return curve => {
    const [logged, other] = [fork?.factual, fork?.signals].map(future => future?.[curve.signal.name]);
    if (!logged) return [];
    const factual = aheadLine(present, curve, logged, { label: "logged actions", style: "other1" });
    if (!fork.isOther) return [factual];
    const line = aheadLine(present, curve, other, { label: "other actions", style: "world" });
    const between = pick => line.y.map((value, k) => value == null || factual.y[k] == null ? null : pick(value, factual.y[k]));
    return [factual, line, { ...line, label: "", y: line.y.map(() => null), low: between(Math.min), high: between(Math.max) }];
  };
}

function Findings({ present, fork, failed }) {
  const { schema, axis, now } = present, { log, episode } = usePlace();
  if (!fork) return failed ? null : html`<${Waiting}>Inferring<//>`;
  const [title, text] = INFERRED[fork.abduction];
  return html`<${Title}>What was <${Term} name="abduction">inferred<//><//><div class="verdict">${title}</div><p class="soft">${text}</p>
    ${fork.reason && html`<div class="warn"><b>Reason</b><p>${fork.reason}</p></div>`}
    <${Title}>Largest differences<//>
    ${!fork.isOther ? html`<p class="soft">Draw other actions to compare two futures.</p>` : html`<dl>
      ${curves(schema.signals.filter(signal => fork.signals[signal.name])).map(curve => {
    const { step, logged, other, difference } = largest(fork, curve);
    return html`<dt>${curve.label}</dt><dd>${difference > 0 && "+"}${withUnit(difference, curve.unit)}${difference !== 0 && html`<span class="soft">after ${axis.text(step)}: ${number(other)} instead of ${number(logged)}</span>`}</dd>`;
  })}</dl>`}
    <${Title}>The same in Python<//><${Code}>${[`episode = worldline.open_store("${log}").episode(${episode})`,
    `w = world.what_if(episode, at=${now}, actions=actions)`, "w.plot()"].join("\n")}<//>`;
}
