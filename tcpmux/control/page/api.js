// Requests to the admin API, with the bearer token if one is needed.

const TOKEN_KEY = "tcpmux-token";

// status: of the answer; 0 = there was none. hint: the parameter that would have it done; "" = none.
export class ApiError extends Error {
  constructor(message, status = 0, hint = "") {
    super(message);
    this.status = status;
    this.hint = hint;
  }
}

export class Unauthorized extends ApiError {}

// Tells of "unauthorized", whichever request it was.
export const refusals = new EventTarget();

export function setToken(token) {
  sessionStorage.setItem(TOKEN_KEY, token);
}

export function hasToken() {
  return sessionStorage.getItem(TOKEN_KEY) !== null;
}

async function refusal(response) {
  let reason = `${response.status} ${response.statusText}`.trim();
  let hint = "";
  try {
    const told = await response.json();
    reason = told.error ?? reason;
    hint = told.hint ?? hint;
  } catch {
    // Not from the API but from something in between: its status has to do.
  }
  return new (response.status === 401 ? Unauthorized : ApiError)(reason, response.status, hint);
}

// The response, once its head is there. Raises ApiError for everything but success.
export async function open(path, { method = "GET", body, signal, headers = {} } = {}) {
  const token = sessionStorage.getItem(TOKEN_KEY);
  const sent = { ...headers };
  if (token) sent.Authorization = `Bearer ${token}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const request = {
    method,
    headers: sent,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    signal,
  };
  const response = await fetch(path, request).catch((error) => {
    throw error instanceof TypeError ? new ApiError("the instance does not answer") : error;
  });
  if (response.status === 401) refusals.dispatchEvent(new Event("unauthorized"));
  if (!response.ok) throw await refusal(response);
  return response;
}

export async function call(path, options) {
  const answer = await (await open(path, options)).json();
  // Of what takes long, the head is sent before it is done.
  if (answer.error) throw new ApiError(answer.error);
  return answer;
}

export function routePath(route, action) {
  return `/v1/routes/${encodeURIComponent(route)}/${action}`;
}
