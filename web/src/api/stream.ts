// The events of one response, from the socket to a Round.

import { EventSourceParserStream } from "eventsource-parser/stream";

import type { Call, Part, Round, Text, Thinking, TokenInfo } from "../state/types";
import type { Body } from "./request";

export interface ResponseEvent {
  type: string;
  [field: string]: any; // the specification's events; each case below reads its own fields
}

export class ServerError extends Error {}

export function headers(apiKey: string): Record<string, string> {
  return { "content-type": "application/json", ...(apiKey && { authorization: `Bearer ${apiKey}` }) };
}

async function refusal(response: Response): Promise<ServerError> {
  const text = await response.text();
  try {
    const message = JSON.parse(text).error?.message;
    if (message) return new ServerError(message);
  } catch {
    // not of the API's shape: the status says more
  }
  return new ServerError(`The server answered ${response.status} ${response.statusText}`);
}

export async function* responseEvents(
  body: Body,
  apiKey: string,
  signal: AbortSignal,
): AsyncGenerator<ResponseEvent> {
  const response = await fetch("/v1/responses", {
    method: "POST",
    headers: headers(apiKey),
    body: JSON.stringify(body),
    signal,
  });
  if (!response.ok || !response.body) throw await refusal(response);
  const events = response.body
    .pipeThrough(new TextDecoderStream())
    .pipeThrough(new EventSourceParserStream());
  const reader = events.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      if (value.data !== "[DONE]") yield JSON.parse(value.data);
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

/** Ends the thinking of a running response; the model goes on to its answer. */
export async function endThinking(responseId: string, apiKey: string): Promise<void> {
  const response = await fetch(`/v1/responses/${encodeURIComponent(responseId)}/end_thinking`, {
    method: "POST",
    headers: headers(apiKey),
  });
  if (!response.ok) throw await refusal(response);
}

export function emptyRound(now: number): Round {
  return {
    responseId: null,
    status: "running",
    error: null,
    parts: [],
    items: [],
    usage: null,
    began: now,
    firstToken: null,
    ended: null,
    tokens: null,
  };
}

function opened(item: any, now: number): Part | null {
  switch (item.type) {
    case "reasoning":
      return { kind: "thinking", id: item.id, text: "", began: now, ended: null };
    case "message":
      return { kind: "text", id: item.id, text: "", preamble: item.phase === "commentary", tokens: [] };
    case "function_call":
      return {
        kind: "call", id: item.id, callId: item.call_id, name: item.name, arguments: "",
        written: false, byHand: true, output: null,
      };
    case "mcp_call":
    case "code_interpreter_call":
    case "web_search_call":
      return {
        kind: "call", id: item.id, callId: item.id, name: item.name ?? item.type.replace(/_call$/, ""),
        arguments: "", written: false, byHand: false, output: null,
      };
    default:
      return null;
  }
}

/** What a built-in tool's item says when it is done. */
function hostedResult(item: any): { arguments: string; output: string } {
  switch (item.type) {
    case "mcp_call":
      return { arguments: item.arguments ?? "", output: item.output ?? errorText(item.error) };
    case "code_interpreter_call":
      return { arguments: item.code ?? "", output: logs(item.outputs) };
    default:
      return { arguments: JSON.stringify(item.action ?? {}), output: item.status ?? "" };
  }
}

function errorText(error: any): string {
  return error == null ? "" : typeof error === "string" ? error : (error.message ?? JSON.stringify(error));
}

function logs(outputs: any[] | null | undefined): string {
  return (outputs ?? []).map((output) => output.logs ?? "").join("\n");
}

/** The round after an event. Parts that the event does not concern stay the same objects. */
export function advance(round: Round, event: ResponseEvent, now: number): Round {
  const change = (id: string, edit: (part: any) => Part): Round => ({
    ...round,
    parts: round.parts.map((part) => (part.id === id ? edit(part) : part)),
  });
  switch (event.type) {
    case "response.created":
      return { ...round, responseId: event.response.id };
    case "response.output_item.added": {
      const part = opened(event.item, now);
      const first = round.firstToken ?? now;
      return part ? { ...round, firstToken: first, parts: [...round.parts, part] } : { ...round, firstToken: first };
    }
    case "response.reasoning_text.delta":
      return change(event.item_id, (part: Thinking) => ({ ...part, text: part.text + event.delta }));
    case "response.output_text.delta":
      return change(event.item_id, (part: Text) => ({
        ...part,
        text: part.text + event.delta,
        tokens: event.logprobs?.length ? part.tokens.concat(event.logprobs as TokenInfo[]) : part.tokens,
      }));
    case "response.function_call_arguments.delta":
    case "response.mcp_call_arguments.delta":
    case "response.code_interpreter_call_code.delta":
      return change(event.item_id, (part: Call) => ({ ...part, arguments: part.arguments + event.delta }));
    case "response.output_item.done": {
      const item = event.item;
      return change(item.id, (part) => {
        if (part.kind === "thinking") return { ...part, ended: now };
        if (part.kind !== "call") return part;
        if (part.byHand) return { ...part, arguments: item.arguments, written: true };
        return { ...part, ...hostedResult(item), written: true };
      });
    }
    case "response.completed":
    case "response.incomplete":
    case "response.failed":
    case "response.cancelled":
      return ended(round, event.response, now);
    case "error":
      return { ...round, status: "failed", error: event.message ?? "The server broke off", ended: now };
    default:
      return round;
  }
}

function ended(round: Round, response: any, now: number): Round {
  const usage = response.usage;
  const status = response.status === "cancelled" ? "stopped" : response.status;
  return {
    ...round,
    status,
    error: response.error?.message ?? null,
    items: response.output,
    parts: round.parts.map((part) =>
      part.kind === "thinking" && part.ended === null ? { ...part, ended: now } : part,
    ),
    usage: usage && {
      input: usage.input_tokens,
      cached: usage.input_tokens_details.cached_tokens,
      output: usage.output_tokens,
      reasoning: usage.output_tokens_details.reasoning_tokens,
    },
    ended: now,
    tokens: response.token_ids ? { prompt: response.prompt_token_ids, output: response.token_ids } : null,
  };
}
