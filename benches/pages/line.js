// A page's end of the line to the benchmark: it asks for commands, does them one after the other, and posts what came of
// each. Every page that measures a peer uses it.

const page = new URLSearchParams(location.search).get("page");

/** Figures as JSON behind their length, then the output's floats. */
function body(figures, output) {
  const text = new TextEncoder().encode(JSON.stringify(figures));
  const length = new Uint8Array(new Uint32Array([text.length]).buffer);
  return new Blob(output ? [length, text, output] : [length, text]);
}

/** What went wrong, with what caused it. */
function reason(error) {
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
}

/**
 * Serves commands until nobody has any. Each handler gets its command and returns `{ figures, output }`; what it throws
 * is the answer's `error`.
 */
export async function serve(handlers) {
  for (;;) {
    const response = await fetch(`/next?page=${page}`, { cache: "no-store" });
    if (response.status === 204) continue;
    if (!response.ok) return;
    const command = await response.json();
    let answer;
    try {
      answer = await handlers[command.do](command);
    } catch (error) {
      answer = { figures: { error: reason(error) } };
    }
    await fetch(`/answer?page=${page}`, { method: "POST", body: body(answer.figures ?? {}, answer.output) });
  }
}
