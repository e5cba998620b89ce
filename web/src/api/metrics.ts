// The few numbers of /metrics that the engine panel shows.

import { headers } from "./stream";

export interface Engine {
  running: number;
  waiting: number;
  kvUse: number; // share
  stepSeconds: number;
  generated: number; // tokens since the start
  prompted: number;
  cachedTokens: number;
  restarts: number;
}

/** Sums of the samples of each metric, over its labels. */
export function samples(text: string): Map<string, number> {
  const sums = new Map<string, number>();
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{.*\})? (\S+)/.exec(line);
    if (match) sums.set(match[1]!, (sums.get(match[1]!) ?? 0) + Number(match[2]));
  }
  return sums;
}

export async function engineState(apiKey: string, signal: AbortSignal): Promise<Engine> {
  const response = await fetch("/metrics", { headers: headers(apiKey), signal });
  if (!response.ok) throw new Error(`/metrics answered ${response.status}`);
  const found = samples(await response.text());
  const value = (name: string): number => found.get(name) ?? 0;
  return {
    running: value("vllm:num_requests_running"),
    waiting: value("vllm:num_requests_waiting"),
    kvUse: value("vllm:kv_cache_usage_perc"),
    stepSeconds: value("mosso:last_step_seconds"),
    generated: value("vllm:generation_tokens_total"),
    prompted: value("vllm:prompt_tokens_total"),
    cachedTokens: value("vllm:prefix_cache_hits_total"),
    restarts: value("mosso:engine_restarts_total"),
  };
}
