// Requests to the API, and what it refuses, in one shape.

/** A problem (RFC 9457) from any answer, also one that is not problem+json. */
export function asProblem(status, body, retryAfter = null) {
  const base = body && typeof body === "object" ? body : {};
  return {
    ...base,
    status,
    code: base.code || `http-${status}`,
    title: base.title || (status >= 500 ? "The server could not do this." : "This was refused."),
    detail: base.detail || "",
    remedy: base.remedy || (status >= 500 ? "Try again in a moment." : ""),
    retryAfterSeconds: Number(base.retry_after_seconds ?? retryAfter ?? 0) || 0,
  };
}

/** Calls the API as the signed-in person. Never throws: {ok, status, data} or {ok: false, problem}. */
export async function call(method, url, body, { timeoutMs = 20000, signal } = {}) {
  const headers = { Accept: "application/json", "X-CSRFToken": document.body.dataset.csrf || "" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const deadline = AbortSignal.timeout(timeoutMs);
  try {
    const response = await fetch(url, {
      method,
      headers,
      credentials: "same-origin",
      cache: "no-store",
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
    });
    const text = await response.text();
    const data = parse(text);
    if (response.ok) return { ok: true, status: response.status, data };
    return { ok: false, status: response.status, problem: asProblem(response.status, data, response.headers.get("Retry-After")) };
  } catch (error) {
    const late = error.name === "TimeoutError";
    return {
      ok: false,
      status: 0,
      problem: {
        status: 0,
        code: late ? "no-answer" : "unreachable",
        title: late ? "The server did not answer in time." : "The server cannot be reached.",
        detail: navigator.onLine === false ? "This device is offline." : "",
        remedy: "Check the connection and try again.",
        retryAfterSeconds: 0,
      },
    };
  }
}

function parse(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}
