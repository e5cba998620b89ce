// Asking the server, and what a person does to an answer that runs.

import { requestBody, SettingError, waiting } from "../api/request";
import { advance, emptyRound, endThinking, responseEvents, ServerError } from "../api/stream";
import type { ResponseEvent } from "../api/stream";
import {
  addTurn, editAnswer, editLastRound, keep, rewind, useStore,
} from "./store";
import type { Round, Side } from "./types";

const running = new Map<string, AbortController>(); // by turn and side

const keyOf = (turn: string, side: Side): string => `${turn} ${side}`;

export function sides(): Side[] {
  return useStore.getState().panels.compare ? ["a", "b"] : ["a"];
}

export function ask(question: string): void {
  const { conversation, turn } = addTurn(question);
  for (const side of sides()) void answer(conversation, turn, side);
}

/** Asks an earlier question again, perhaps in other words; what came after it is dropped. */
export function askAgain(conversation: string, turn: string, question: string): void {
  stopAll();
  rewind(conversation, turn, question);
  for (const side of sides()) void answer(conversation, turn, side);
}

export function stop(turn: string, side: Side): void {
  running.get(keyOf(turn, side))?.abort();
}

export function stopAll(): void {
  for (const controller of running.values()) controller.abort();
}

export async function thinkNoMore(round: Round): Promise<void> {
  if (round.responseId) await endThinking(round.responseId, useStore.getState().apiKey);
}

/** A person answers a call; when the last one is answered, the model goes on. */
export function answerCall(conversation: string, turn: string, side: Side, callId: string, output: string): void {
  editLastRound(conversation, turn, side, (round) => ({
    ...round,
    parts: round.parts.map((part) =>
      part.kind === "call" && part.callId === callId ? { ...part, output } : part,
    ),
  }));
  const found = useStore.getState().conversations.find((one) => one.id === conversation);
  const rounds = found?.turns.find((one) => one.id === turn)?.answers[side]?.rounds;
  const last = rounds?.at(-1);
  if (last && last.status !== "running" && waiting(last).length === 0) void answer(conversation, turn, side);
}

async function answer(conversation: string, turn: string, side: Side): Promise<void> {
  const { apiKey, conversations, model, settings } = useStore.getState();
  const turns = conversations.find((one) => one.id === conversation)!.turns;
  const until = turns.findIndex((one) => one.id === turn) + 1;
  const controller = new AbortController();
  running.set(keyOf(turn, side), controller);
  editAnswer(conversation, turn, side, ({ rounds }) => ({ rounds: [...rounds, emptyRound(performance.now())] }));
  const frames = new Frames((events) =>
    editLastRound(conversation, turn, side, (round) =>
      events.reduce((made, { event, at }) => advance(made, event, at), round),
    ),
  );
  try {
    const body = requestBody(model ?? "", turns.slice(0, until), side, settings[side]);
    for await (const event of responseEvents(body, apiKey, controller.signal)) frames.add(event);
    frames.flush();
    editLastRound(conversation, turn, side, (round) =>
      round.status === "running" ? failed(round, "The connection broke off") : round,
    );
  } catch (error) {
    frames.flush();
    editLastRound(conversation, turn, side, (round) =>
      controller.signal.aborted ? stopped(round) : failed(round, explained(error)),
    );
  } finally {
    running.delete(keyOf(turn, side));
    void keep();
  }
}

/** The items of a round that was stopped: what was said so far, so that the conversation can go on. */
function stopped(round: Round): Round {
  const items = round.parts.flatMap((part) =>
    part.kind === "text" && part.text
      ? [{ type: "message", role: "assistant", content: [{ type: "output_text", text: part.text }] }]
      : [],
  );
  return { ...round, status: "stopped", items, ended: performance.now() };
}

function failed(round: Round, error: string): Round {
  return { ...stopped(round), status: "failed", error };
}

export function explained(error: unknown): string {
  if (error instanceof SettingError || error instanceof ServerError) return error.message;
  return `The server cannot be reached (${(error as Error).message})`;
}

/** Events are taken in once a frame: a fast model must not make the page draw for every token. */
class Frames {
  private events: { event: ResponseEvent; at: number }[] = [];
  private asked = false;

  constructor(private readonly take: (events: { event: ResponseEvent; at: number }[]) => void) {}

  add(event: ResponseEvent): void {
    this.events.push({ event, at: performance.now() });
    if (this.asked) return;
    this.asked = true;
    // A page in the background draws no frames, but its answers go on.
    if (document.hidden) setTimeout(() => this.flush(), 250);
    else requestAnimationFrame(() => this.flush());
  }

  flush(): void {
    this.asked = false;
    const events = this.events;
    this.events = [];
    if (events.length) this.take(events);
  }
}
