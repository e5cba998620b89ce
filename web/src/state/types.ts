// What the playground keeps. Everything here is plain data: it is stored in the browser as it is.

export interface Alternative {
  token: string;
  logprob: number;
}

export interface TokenInfo extends Alternative {
  top_logprobs: Alternative[];
}

export interface Thinking {
  kind: "thinking";
  id: string;
  text: string;
  began: number; // milliseconds, performance.now of this page
  ended: number | null;
}

export interface Text {
  kind: "text";
  id: string;
  text: string;
  preamble: boolean; // said before a call, not the answer itself
  tokens: TokenInfo[];
}

export interface Call {
  kind: "call";
  id: string;
  callId: string;
  name: string;
  arguments: string;
  written: boolean; // the arguments are whole
  byHand: boolean; // a person answers; else a tool of the server did
  output: string | null;
}

export type Part = Thinking | Text | Call;

export interface Usage {
  input: number;
  cached: number;
  output: number;
  reasoning: number;
}

export type RoundStatus = "running" | "completed" | "incomplete" | "failed" | "stopped";

/** One response of the server. An answer has several where a person answered calls. */
export interface Round {
  responseId: string | null;
  status: RoundStatus;
  error: string | null;
  parts: Part[];
  items: unknown[]; // the response's output as the server gave it: goes back to it as history
  usage: Usage | null;
  began: number; // milliseconds, as above
  firstToken: number | null;
  ended: number | null;
  tokens: RawTokens | null;
}

export interface RawTokens {
  prompt: number[];
  output: number[];
}

export interface Answer {
  rounds: Round[];
}

export type Side = "a" | "b";

export interface Turn {
  id: string;
  question: string;
  answers: Partial<Record<Side, Answer>>;
}

export interface ToolDefinition {
  id: string;
  name: string;
  description: string;
  parameters: string; // JSON schema, as typed
}

export type BuiltIn = "web_search" | "code_interpreter";

export interface Settings {
  effort: "low" | "medium" | "high";
  temperature: number | null; // null here and below: the model's own
  topP: number | null;
  topK: number; // 0: off
  minP: number;
  seed: number | null;
  maxTokens: number | null;
  thinkingBudget: number | null;
  system: string; // how Harmony's system message begins; empty: as the model was trained
  developer: string;
  logprobs: boolean;
  schemaOn: boolean;
  schema: string; // JSON schema, as typed
  tools: ToolDefinition[];
  builtIns: BuiltIn[];
}

export interface Conversation {
  id: string;
  title: string;
  changed: number; // milliseconds since 1970
  turns: Turn[];
}

export const DEFAULTS: Settings = {
  effort: "medium",
  temperature: null,
  topP: null,
  topK: 0,
  minP: 0,
  seed: null,
  maxTokens: null,
  thinkingBudget: null,
  system: "",
  developer: "",
  logprobs: false,
  schemaOn: false,
  schema: `{
  "type": "object",
  "properties": {
    "name": { "type": "string" },
    "age": { "type": "integer" }
  },
  "required": ["name", "age"],
  "additionalProperties": false
}`,
  tools: [],
  builtIns: [],
};

export const EXAMPLE_TOOL: Omit<ToolDefinition, "id"> = {
  name: "get_weather",
  description: "The weather in a city.",
  parameters: `{
  "type": "object",
  "properties": { "city": { "type": "string" } },
  "required": ["city"]
}`,
};
