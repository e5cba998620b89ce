// A conversation and settings → the body of POST /v1/responses.

import type { Answer, Call, Round, Settings, Side, Turn } from "../state/types";

export class SettingError extends Error {}

export interface Body {
  [field: string]: unknown;
}

export function calls(round: Round): Call[] {
  return round.parts.filter((part) => part.kind === "call");
}

/** The calls of a round that wait for a person. */
export function waiting(round: Round): Call[] {
  return calls(round).filter((call) => call.byHand && call.output === null);
}

function answerItems(answer: Answer): unknown[] {
  return answer.rounds.flatMap((round) => [
    ...round.items,
    ...calls(round)
      .filter((call) => call.byHand && call.output !== null)
      .map((call) => ({ type: "function_call_output", call_id: call.callId, output: call.output })),
  ]);
}

/** The input items of side `side`, up to and with the question (and the rounds so far) of the last turn. */
export function inputItems(turns: Turn[], side: Side): unknown[] {
  return turns.flatMap((turn) => {
    const answer = turn.answers[side] ?? turn.answers.a;
    return [
      { type: "message", role: "user", content: turn.question },
      ...(answer ? answerItems(answer) : []),
    ];
  });
}

function parsed(text: string, what: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new SettingError(`${what} is not JSON: ${(error as Error).message}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new SettingError(`${what} must be a JSON object`);
  }
  return value as Record<string, unknown>;
}

function tools(settings: Settings): unknown[] {
  const functions = settings.tools.map((tool) => ({
    type: "function",
    name: tool.name,
    description: tool.description || undefined,
    parameters: parsed(tool.parameters, `The parameters of ${tool.name}`),
  }));
  const builtIns = settings.builtIns.map((type) =>
    type === "code_interpreter" ? { type, container: { type: "auto" } } : { type },
  );
  return [...functions, ...builtIns];
}

export function requestBody(model: string, turns: Turn[], side: Side, settings: Settings): Body {
  const offered = tools(settings);
  const include = ["reasoning.encrypted_content"];
  if (settings.logprobs) include.push("message.output_text.logprobs");
  const body: Body = {
    model,
    input: inputItems(turns, side),
    stream: true,
    store: false,
    return_token_ids: true,
    include,
    reasoning: {
      effort: settings.effort,
      ...(settings.thinkingBudget !== null && { max_tokens: settings.thinkingBudget }),
    },
  };
  if (settings.temperature !== null) body.temperature = settings.temperature;
  if (settings.topP !== null) body.top_p = settings.topP;
  if (settings.system.trim()) body.chat_template_kwargs = { model_identity: settings.system };
  if (settings.developer.trim()) body.instructions = settings.developer;
  if (settings.topK > 0) body.top_k = settings.topK;
  if (settings.minP > 0) body.min_p = settings.minP;
  if (settings.seed !== null) body.seed = settings.seed;
  if (settings.maxTokens !== null) body.max_output_tokens = settings.maxTokens;
  if (settings.logprobs) body.top_logprobs = 5;
  if (offered.length) body.tools = offered;
  if (settings.schemaOn) {
    body.text = {
      format: { type: "json_schema", name: "answer", schema: parsed(settings.schema, "The JSON schema") },
    };
  }
  return body;
}
