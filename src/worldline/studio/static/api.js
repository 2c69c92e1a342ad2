// Where answers come from: the service, a saved page, or a world inside the page.
import { signal } from "@preact/signals-core";
import { saved } from "studio/saved.js";

export class ApiError extends Error {
  constructor(code, detail, status = 0) {
    super(detail);
    this.code = code;
    this.status = status;
  }
}

// "ok", "lost" (the service does not answer), "token" (it refuses the token). A view asks again when this changes.
export const connection = signal("ok");
export const offline = saved !== null;

let token = "";
try {
  token = sessionStorage.getItem("token") || "";
} catch { /* a page from disk may have no storage */ }

export function setToken(text) {
  token = text.trim();
  try {
    sessionStorage.setItem("token", token);
  } catch { /* kept in memory */ }
  connection.value = "ok";
}

// For `Save as file`, answers by question: those that a hook shows now, and the newest of all others of the view.
const shown = new Map(), others = new Map();
const MAX_OTHERS = 1e6; // letters
let asker = others;

export const usedAnswers = () => Object.fromEntries([others, ...shown.values()].flatMap(answers => [...answers]));
export const forget = hook => hook ? shown.delete(hook) : others.clear();

// Asks for a hook. What it asks at once replaces the answers that it got before.
export async function askFor(hook, ask) {
  const own = asker = new Map();
  let answer;
  try {
    answer = ask();
  } finally {
    asker = others;
  }
  await answer;
  shown.set(hook, own);
  return answer;
}

const question = (method, path, body) => `${method} ${path}${body === undefined ? "" : " " + JSON.stringify(body)}`;
const RETRY_MS = 2000;

async function fetched(method, path, body) {
  const headers = { ...(token && { authorization: `Bearer ${token}` }), ...(body !== undefined && { "content-type": "application/json" }) };
  const options = { method, headers, body: body === undefined ? undefined : JSON.stringify(body) };
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), options);
  } catch {
    lose();
    throw new ApiError("unreachable", "The service does not answer. The view continues when it returns.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401) connection.value = "token";
  throw new ApiError(problem.code || "error", problem.detail || `The service answered ${response.status}.`, response.status);
}

function lose() {
  if (connection.value === "lost") return;
  connection.value = "lost";
  const retry = async () => {
    const response = await fetch(new URL("healthz", document.baseURI)).catch(() => null);
    if (response?.ok) connection.value = "ok";
    else setTimeout(retry, RETRY_MS);
  };
  setTimeout(retry, RETRY_MS);
}

const server = {
  get: async path => (await fetched("GET", path)).json(),
  post: async (path, body) => (await fetched("POST", path, body)).json(),
  remove: async path => (await fetched("DELETE", path)).json().catch(() => null),
  text: async path => (await fetched("GET", path)).text(),
  picture: async path => {
    const blob = await (await fetched("GET", path)).blob();
    return new Promise(resolve => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.readAsDataURL(blob);
    });
  },
};

const refuse = async (method, path, body) => {
  const answer = saved.answers?.[question(method, path, body)];
  if (answer === undefined) throw new ApiError("saved", "This file holds only what was saved. Open the studio for more.");
  return answer;
};
const recorded = {
  get: path => refuse("GET", path),
  post: (path, body) => refuse("POST", path, body),
  remove: path => refuse("DELETE", path),
  text: path => refuse("GET", path),
  picture: path => refuse("GET", path),
};

let backend = offline ? recorded : server;
export const setBackend = other => { backend = { ...recorded, ...other }; };

// `reduce` shortens an answer that the server gives, before it is kept.
async function kept(method, name, path, body, reduce) {
  const own = asker, whole = await backend[name](path, body), answer = reduce && backend !== recorded ? reduce(whole) : whole;
  own.set(question(method, path, body), answer);
  if (own === others) trim();
  return answer;
}

function trim() {
  let size = 0;
  for (const [asked, answer] of [...others].reverse()) {
    if (size > MAX_OTHERS) others.delete(asked);
    else size += typeof answer === "string" ? answer.length : JSON.stringify(answer).length;
  }
}

export const api = {
  get: path => kept("GET", "get", path),
  post: (path, body, reduce) => kept("POST", "post", path, body, reduce),
  remove: path => backend.remove(path),
  act: (path, body) => backend.post(path, body), // is not kept for a file
  text: path => kept("GET", "text", path),
  file: () => backend.text("studio/file.html"),
  picture: path => kept("GET", "picture", path),
};

export const seg = encodeURIComponent;
