/** The server: requests, their errors, and streams of server-sent events. */

import { settings } from "./settings.js";

/** What the server refused, or why it could not be asked. `retrySeconds`: asking again then makes sense. */
export class ApiError extends Error {
  constructor(message, { status = 0, retrySeconds = null } = {}) {
    super(message);
    this.status = status;
    this.retrySeconds = retrySeconds;
  }
}

/** A response that is a success. Paths are relative, so that the page works below any path of a proxy. */
export async function request(path, { body, signal } = {}) {
  const headers = {};
  if (settings.apiKey) headers.Authorization = `Bearer ${latin1(settings.apiKey)}`;
  if (body) headers["Content-Type"] = "application/json";
  const options = { method: body ? "POST" : "GET", headers, signal, cache: "no-store" };
  let response;
  try {
    response = await fetch(path, body ? { ...options, body: JSON.stringify(body) } : options);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("The server cannot be reached.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const retrySeconds = Number(response.headers.get("Retry-After")) || null;
  let message = `The server answered with status ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // Not the server itself, but something in between answered: its status has to do.
  }
  return new ApiError(message, { status: response.status, retrySeconds });
}

/** Keys are sent as UTF-8; headers are strings of bytes. */
function latin1(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

/** The chunks of a streamed answer. Throws ApiError where the stream has an error or ends before its end. */
export async function* streamChat(body, signal) {
  const response = await request("v1/chat/completions", { body: { ...body, stream: true }, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await read(reader, signal);
    if (done) throw new ApiError("The connection was lost.");
    buffer += value;
    const events = buffer.split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue; // a comment that breaks the silence
      const data = event.slice("data: ".length);
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, { status: chunk.error.code });
      yield chunk;
    }
  }
}

async function read(reader, signal) {
  try {
    return await reader.read();
  } catch (error) {
    if (signal.aborted) throw error;
    throw new ApiError("The connection was lost.");
  }
}
