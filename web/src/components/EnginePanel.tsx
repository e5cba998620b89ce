import { Text, Title } from "@mantine/core";
import { useEffect, useState } from "react";

import { engineState } from "../api/metrics";
import type { Engine } from "../api/metrics";
import { useStore } from "../state/store";

const EVERY = 1000; // milliseconds
const KEPT = 60; // samples

interface Sample extends Engine {
  at: number; // milliseconds
}

export function EnginePanel() {
  const apiKey = useStore((state) => state.apiKey);
  const [samples, setSamples] = useState<Sample[]>([]);
  const [problem, setProblem] = useState<string | null>(null);

  useEffect(() => {
    const controller = new AbortController();
    const look = async () => {
      try {
        const sample = { ...(await engineState(apiKey, controller.signal)), at: performance.now() };
        setSamples((before) => [...before, sample].slice(-KEPT));
        setProblem(null);
      } catch (error) {
        if (!controller.signal.aborted) setProblem((error as Error).message);
      }
    };
    void look();
    const timer = setInterval(() => void look(), EVERY);
    return () => {
      clearInterval(timer);
      controller.abort();
    };
  }, [apiKey]);

  const now = samples.at(-1);
  const speeds = samples.slice(1).map((sample, index) => {
    const before = samples[index]!;
    return (1000 * (sample.generated - before.generated)) / (sample.at - before.at);
  });
  return (
    <div className="panel">
      <Title order={2} size="h4" mb="sm">
        Engine
      </Title>
      {problem && <Text size="sm" role="alert">{problem}</Text>}
      {now && (
        <>
          <dl>
            <dt>Running</dt>
            <dd data-testid="running">{now.running}</dd>
            <dt>Waiting</dt>
            <dd>{now.waiting}</dd>
            <dt>KV memory in use</dt>
            <dd>{(100 * now.kvUse).toFixed(1)} %</dd>
            <dt>Last step</dt>
            <dd>{(1000 * now.stepSeconds).toFixed(1)} ms</dd>
            <dt>Prompt tokens from the cache</dt>
            <dd>{now.prompted ? ((100 * now.cachedTokens) / now.prompted).toFixed(0) : 0} %</dd>
            <dt>Restarts</dt>
            <dd>{now.restarts}</dd>
            <dt>Generating</dt>
            <dd>{(speeds.at(-1) ?? 0).toFixed(0)} tokens/s</dd>
          </dl>
          <Spark values={speeds} label="Tokens per second over the last minute" />
        </>
      )}
    </div>
  );
}

function Spark({ values, label }: { values: number[]; label: string }) {
  const most = Math.max(1, ...values);
  const path = values
    .map((value, index) => `${index ? "L" : "M"}${(100 * index) / Math.max(1, KEPT - 1)},${40 - (38 * value) / most}`)
    .join("");
  return (
    <svg className="spark" viewBox="0 0 100 42" preserveAspectRatio="none" role="img" aria-label={`${label}, at most ${most.toFixed(0)}`}>
      <path d={path} vectorEffect="non-scaling-stroke" />
    </svg>
  );
}
