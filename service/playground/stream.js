// Server-sent events over fetch: the browser's own EventSource cannot send a key in a header.

import { reach } from "./api.js";

const RETRY_MS = 2000;

/** Calls `onNews` with each look until the page goes; says through `onState` how the line is. */
export async function listen(path, onNews, onState) {
  for (;;) {
    try {
      const answer = await reach(path, { headers: { accept: "text/event-stream" } });
      onState("on");
      await read(answer.body, onNews);
      onState("off", null);
    } catch (error) {
      onState("off", error);
      if (error.status === 401 || error.status === 403 || error.status === 404) return;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

async function read(body, onNews) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (data) onNews(JSON.parse(data));
    }
  }
}
