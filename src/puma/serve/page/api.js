// Talking with the service: one call, its faults as Problems, waiting when it is busy, asking for the token when it
// wants one. Nothing here touches the page.

const TRIES_WHEN_BUSY = 6;
const LONGEST_WAIT_S = 60;

/** A call that failed. kind: "offline" (no answer), "token", "busy", "missing", "refused" (our fault), "server"; code: the
 * service's own word for it, if any. */
export class Problem extends Error {
  constructor(kind, message, status = 0, code = "") {
    super(message);
    this.kind = kind;
    this.status = status;
    this.code = code;
  }
}

/** The page sets these: how to get a token from the user (true once signed in), what to say while waiting. */
export const hooks = { askToken: async () => false, waiting: () => {} };

const address = (path) => new URL(path, new URL(".", document.baseURI));
let asking = null;

/**
 * Ask the service.
 * @param {string} path without the leading slash
 * @param {{body?: object, method?: string, signal?: AbortSignal}} options
 * @returns {Promise<object>} the answer; Problem if there is none; AbortError if the signal was raised.
 */
export async function call(path, { body, method = body ? "POST" : "GET", signal } = {}) {
  for (let tries = 1; ; tries += 1) {
    const answer = await send(path, body, method, signal);
    if (answer.ok) return answer.status === 204 ? {} : readJson(answer);
    if (answer.status === 401) {
      asking ??= hooks.askToken().finally(() => (asking = null));
      if (await asking) continue;
      throw new Problem("token", "This service asks for a token.", 401);
    }
    if (answer.status === 429 && tries < TRIES_WHEN_BUSY) {
      await patience(waitFor(answer), signal);
      continue;
    }
    throw await problem(answer);
  }
}

/** Exchange a token for the session's cookie; Problem if it is not the right one. */
export async function signIn(token) {
  const answer = await send("session", { token }, "POST");
  if (!answer.ok)
    throw answer.status === 401 ? new Problem("token", "This is not the token.", 401) : await problem(answer);
}

export async function signOut() {
  await send("session", undefined, "DELETE");
}

/** Does the service answer at all? */
export async function alive() {
  try {
    return (await send("healthz")).ok;
  } catch {
    return false;
  }
}

async function send(path, body, method = "GET", signal) {
  const options = { method, signal, credentials: "same-origin", headers: { Accept: "application/json" } };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  try {
    return await fetch(address(path), options);
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new Problem("offline", "The service does not answer.");
  }
}

async function readJson(answer) {
  try {
    return await answer.json();
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new Problem("server", "The answer could not be read.", answer.status);
  }
}

async function problem(answer) {
  let said = "";
  let code = "";
  try {
    const told = await answer.json();
    said = told.error?.message ?? told.message ?? "";
    code = told.error?.code ?? "";
  } catch {
    // not JSON: something between us and the service answered
  }
  const { status } = answer;
  if (status === 429 || status === 503) return new Problem("busy", said || "Too many searches at once.", status);
  if (status === 404) return new Problem("missing", said || "There is no such thing here.", status, code);
  if (status < 500) return new Problem("refused", said || `The service refused this (${status}).`, status, code);
  return new Problem("server", said || `Something went wrong in the service (${status}).`, status);
}

function waitFor(answer) {
  const given = answer.headers.get("Retry-After") ?? "";
  const seconds = /^\d+(\.\d+)?$/.test(given) ? Number(given) : (Date.parse(given) - Date.now()) / 1000;
  return Math.min(Math.max(Number.isFinite(seconds) ? seconds : 1, 0.2), LONGEST_WAIT_S);
}

async function patience(seconds, signal) {
  const end = performance.now() + seconds * 1000;
  for (;;) {
    const left = end - performance.now();
    hooks.waiting(Math.max(0, Math.ceil(left / 1000)));
    if (left <= 0) return;
    await sleep(Math.min(left, 1000), signal);
  }
}

function sleep(milliseconds, signal) {
  return new Promise((done, failed) => {
    const timer = setTimeout(finish, milliseconds);
    function finish() {
      signal?.removeEventListener("abort", stop);
      done();
    }
    function stop() {
      clearTimeout(timer);
      failed(new DOMException("stopped", "AbortError"));
    }
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
