// The playground's state. Conversations and settings stay in this browser (IndexedDB); the API key too, unless
// the person says otherwise by clearing it. Nothing is sent anywhere but to the server that gave this page.

import { del, get, set } from "idb-keyval";
import { create } from "zustand";

import { DEFAULTS } from "./types";
import type { Answer, Conversation, Round, Settings, Side, Turn } from "./types";

export interface Panels {
  compare: boolean;
  settings: boolean;
  engine: boolean;
  navigation: boolean;
}

export interface State {
  loaded: boolean;
  model: string | null;
  problem: string | null; // what keeps the page from working at all
  apiKey: string;
  settings: Record<Side, Settings>;
  conversations: Conversation[]; // latest first
  current: string | null;
  panels: Panels;
}

export const useStore = create<State>(() => ({
  loaded: false,
  model: null,
  problem: null,
  apiKey: "",
  settings: { a: DEFAULTS, b: DEFAULTS },
  conversations: [],
  current: null,
  panels: { compare: false, settings: true, engine: false, navigation: true },
}));

const { getState, setState, subscribe } = useStore;

// ---- in the browser

const KEY = "mosso-playground";
type Kept = Pick<State, "apiKey" | "settings" | "conversations" | "current" | "panels">;

/** Rounds that ran when the page was closed will never end. */
function settled(conversation: Conversation): Conversation {
  return {
    ...conversation,
    turns: conversation.turns.map((turn) => mapRounds(turn, (round) => (round.status === "running" ? { ...round, status: "stopped" } : round))),
  };
}

function mapRounds(turn: Turn, edit: (round: Round) => Round): Turn {
  const answers = Object.fromEntries(
    Object.entries(turn.answers).map(([side, answer]) => [side, { rounds: answer.rounds.map(edit) }]),
  );
  return { ...turn, answers };
}

export async function load(): Promise<void> {
  const kept = await get<Kept>(KEY).catch(() => undefined);
  setState({
    loaded: true,
    ...(kept && {
      ...kept,
      settings: { a: { ...DEFAULTS, ...kept.settings.a }, b: { ...DEFAULTS, ...kept.settings.b } },
      conversations: kept.conversations.map(settled),
    }),
  });
  subscribe(keepSoon);
}

let timer: ReturnType<typeof setTimeout> | undefined;

function keepSoon(): void {
  timer ??= setTimeout(keep, 1000);
}

export async function keep(): Promise<void> {
  clearTimeout(timer);
  timer = undefined;
  const { apiKey, settings, conversations, current, panels } = getState();
  await set(KEY, { apiKey, settings, conversations, current, panels }).catch(() => undefined);
}

export async function forgetEverything(): Promise<void> {
  await del(KEY);
  setState({ conversations: [], current: null, apiKey: "", settings: { a: DEFAULTS, b: DEFAULTS } });
}

// ---- edits

export function currentConversation(state: State): Conversation | undefined {
  return state.conversations.find((one) => one.id === state.current);
}

export function newConversation(): void {
  setState({ current: null });
}

export function openConversation(id: string): void {
  setState({ current: id });
}

export function deleteConversation(id: string): void {
  const { conversations, current } = getState();
  setState({
    conversations: conversations.filter((one) => one.id !== id),
    current: current === id ? null : current,
  });
}

export function editSettings(side: Side, change: Partial<Settings>): void {
  const { settings } = getState();
  setState({ settings: { ...settings, [side]: { ...settings[side], ...change } } });
}

export function editPanels(change: Partial<Panels>): void {
  setState({ panels: { ...getState().panels, ...change } });
}

/** A turn of the open conversation, or of a new one; returns both ids. */
export function addTurn(question: string): { conversation: string; turn: string } {
  const turn: Turn = { id: crypto.randomUUID(), question, answers: {} };
  const found = currentConversation(getState());
  if (found) {
    editConversation(found.id, (one) => ({ ...one, turns: [...one.turns, turn] }));
    return { conversation: found.id, turn: turn.id };
  }
  const title = question.replace(/\s+/g, " ").slice(0, 60);
  const made: Conversation = { id: crypto.randomUUID(), title, changed: Date.now(), turns: [turn] };
  setState({ conversations: [made, ...getState().conversations], current: made.id });
  return { conversation: made.id, turn: turn.id };
}

export function editConversation(id: string, edit: (one: Conversation) => Conversation): void {
  setState({
    conversations: getState().conversations.map((one) => (one.id === id ? edit({ ...one, changed: Date.now() }) : one)),
  });
}

/** Everything behind a turn is dropped, its answers too. */
export function rewind(conversation: string, turn: string, question: string): void {
  editConversation(conversation, (one) => {
    const at = one.turns.findIndex((each) => each.id === turn);
    return { ...one, turns: [...one.turns.slice(0, at), { id: turn, question, answers: {} }] };
  });
}

export function editAnswer(conversation: string, turn: string, side: Side, edit: (answer: Answer) => Answer): void {
  editConversation(conversation, (one) => ({
    ...one,
    turns: one.turns.map((each) =>
      each.id === turn
        ? { ...each, answers: { ...each.answers, [side]: edit(each.answers[side] ?? { rounds: [] }) } }
        : each,
    ),
  }));
}

export function editLastRound(conversation: string, turn: string, side: Side, edit: (round: Round) => Round): void {
  editAnswer(conversation, turn, side, ({ rounds }) => ({
    rounds: rounds.map((round, index) => (index === rounds.length - 1 ? edit(round) : round)),
  }));
}
