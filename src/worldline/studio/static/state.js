// The place: view, world, log, episode, step and edits. It is the hash of the URL, so that a link restores a view.
import { signal } from "@preact/signals-core";
import { useEffect, useRef, useState } from "preact/hooks";
import { api, ApiError, askFor, connection, forget, seg } from "studio/api.js";
import { saved } from "studio/saved.js";

const NUMBERS = new Set(["episode", "at", "steps", "step"]);
const JSONS = new Set(["edits", "show", "level", "start", "goal", "by"]);

export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const place = { view: path || "home" };
  for (const [name, text] of new URLSearchParams(query)) {
    try {
      place[name] = NUMBERS.has(name) ? Math.max(0, Math.trunc(+text) || 0) : JSONS.has(name) ? JSON.parse(text) : text;
    } catch { /* a part that cannot be read is left out */ }
  }
  return place;
}

export function hashOf({ view, ...rest }) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(rest)) {
    if (value === undefined || value === null || value === "") continue;
    query.set(name, JSONS.has(name) ? JSON.stringify(value) : String(value));
  }
  const text = query.toString();
  return `#/${view}${text && "?" + text}`;
}

export const place = signal(parse(location.hash || saved?.place || ""));

// Changes parts of the place. Another view, world or episode is a step of the browser's history; an edit is none.
export function go(changes, { push = "view" in changes || "world" in changes || "episode" in changes } = {}) {
  const next = { ...place.value, ...changes };
  if (next.view !== place.value.view) forget();
  if (push) writePlace();
  place.value = next;
  isWritten = false;
  if (push) writePlace("pushState");
  else if (timer === null) writePlace();
}

// While an input is dragged, the URL changes a few times a second only: it takes milliseconds, and browsers limit the rate.
const WRITE_MS = 250;
let isWritten = true, timer = null;
export function writePlace(how = "replaceState") {
  if (isWritten) return;
  isWritten = true;
  clearTimeout(timer);
  timer = setTimeout(() => { timer = null; writePlace(); }, WRITE_MS);
  try {
    history[how](null, "", hashOf(place.value));
  } catch { /* the browser limits the number of calls; the place holds without it */ }
}
function readPlace() {
  isWritten = true;
  place.value = parse(location.hash);
}
addEventListener("popstate", readPlace);
addEventListener("hashchange", readPlace);
addEventListener("pagehide", () => writePlace());

export function useSignal(watched) {
  const [, draw] = useState(0);
  useEffect(() => watched.subscribe(() => draw(count => count + 1)), [watched]);
  return watched.value;
}

export const usePlace = () => useSignal(place);

// The value, at most once in so many milliseconds; the first one, and none, at once.
export function useRarely(value, ms = 400) {
  const [shown, show] = useState(value), newest = useRef(), timer = useRef(null);
  newest.current = value;
  const update = () => { timer.current = null; show(newest.current); };
  useEffect(() => {
    if (shown === null || value === null) update();
    else if (shown !== value) timer.current ??= setTimeout(update, ms);
  }, [value]);
  useEffect(() => () => clearTimeout(timer.current), []);
  return shown;
}

// Asks, with one question at a time: while it waits, only the newest question is kept. Returns {value, error, busy, key}.
// `key` names the question, null for none. The last value stays until the next one, unless `subject` differs.
export function useAsked(key, ask, subject = "") {
  const [state, set] = useState({ busy: key !== null });
  const queue = useRef({ newest: null, running: false });
  const alive = useRef(true);
  const link = useSignal(connection);
  useEffect(() => () => { alive.current = false; forget(queue.current); }, []);
  useEffect(() => {
    const own = queue.current, wanted = key === null ? null : { key, ask, subject };
    own.newest = wanted;
    set(last => ({ ...(last.subject === subject && wanted ? last : {}), subject, busy: wanted !== null }));
    if (own.running || wanted === null || link !== "ok") return;
    own.running = true;
    const run = async () => {
      while (own.newest && alive.current) {
        const current = own.newest;
        let result;
        try {
          result = { value: await askFor(own, current.ask), error: null };
        } catch (error) {
          if (!(error instanceof ApiError)) console.error(error);
          result = { error };
        }
        const isNewest = own.newest === current;
        if (isNewest) own.newest = null;
        if (alive.current && (isNewest || own.newest?.subject === current.subject)) {
          set(last => ({ ...last, ...result, key: current.key, subject: current.subject, busy: !isNewest }));
        }
      }
      own.running = false;
      if (!alive.current) forget(own);
    };
    run();
  }, [key, subject, link]);
  return state.subject === subject ? state : { busy: key !== null }; // not the answer about another subject
}

export const useGet = path => useAsked(path, () => api.get(path), path ?? "");
export const useWorlds = () => useGet("v1/worlds");
export const useWorld = name => useGet(name ? `v1/worlds/${seg(name)}` : null);
export const useLog = name => useGet(name ? `v1/logs/${seg(name)}` : null);
