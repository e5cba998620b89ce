// A conversation as something to run elsewhere: the request that its next answer would take.

import { requestBody } from "../api/request";
import type { Conversation, Settings, Side } from "./types";

export type Format = "curl" | "python" | "json";

function body(model: string, conversation: Conversation, side: Side, settings: Settings) {
  const turns = conversation.turns.map((turn, index) =>
    index === conversation.turns.length - 1 ? { ...turn, answers: {} } : turn,
  );
  const made = requestBody(model, turns, side, settings);
  delete made.stream;
  delete made.return_token_ids;
  return made;
}

export function exported(
  format: Format, origin: string, model: string, conversation: Conversation, side: Side, settings: Settings,
): string {
  if (format === "json") return JSON.stringify(conversation, null, 2);
  const made = body(model, conversation, side, settings);
  return format === "curl" ? curl(origin, made) : python(origin, made);
}

function curl(origin: string, made: object): string {
  const quoted = JSON.stringify(made, null, 2).replaceAll("'", `'\\''`);
  return `curl ${origin}/v1/responses \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer $MOSSO_API_KEY" \\
  -d '${quoted}'
`;
}

/** JSON as Python writes it. */
export function literal(value: unknown, indent = ""): string {
  const deeper = `${indent}    `;
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string") return JSON.stringify(value);
  if (Array.isArray(value)) {
    if (!value.length) return "[]";
    return `[\n${value.map((one) => `${deeper}${literal(one, deeper)},\n`).join("")}${indent}]`;
  }
  if (typeof value === "object") {
    const fields = Object.entries(value).filter(([, one]) => one !== undefined);
    if (!fields.length) return "{}";
    return `{\n${fields.map(([name, one]) => `${deeper}${JSON.stringify(name)}: ${literal(one, deeper)},\n`).join("")}${indent}}`;
  }
  return String(value);
}

const OURS = new Set(["top_k", "min_p", "seed", "chat_template_kwargs"]); // not of the SDK's signature

function python(origin: string, made: Record<string, unknown>): string {
  const fields = Object.entries(made).filter(([name]) => !OURS.has(name));
  const extra = Object.fromEntries(Object.entries(made).filter(([name]) => OURS.has(name)));
  if (Object.keys(extra).length) fields.push(["extra_body", extra]);
  const lines = fields.map(([name, value]) => `    ${name}=${literal(value, "    ")},\n`).join("");
  return `import os

from openai import OpenAI

client = OpenAI(base_url="${origin}/v1", api_key=os.environ.get("MOSSO_API_KEY", "none"))
response = client.responses.create(
${lines})
print(response.output_text)
`;
}
