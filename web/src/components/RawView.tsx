import { Loader, Text } from "@mantine/core";
import { useEffect, useState } from "react";

import { tokenTexts } from "../api/models";
import { useStore } from "../state/store";
import type { Round } from "../state/types";

/** The answer's tokens as the model read and wrote them: prompt, then output, with Harmony's control tokens. */
export function RawView({ rounds }: { rounds: Round[] }) {
  const last = rounds.findLast((round) => round.tokens !== null);
  const apiKey = useStore((state) => state.apiKey);
  const [texts, setTexts] = useState<string[] | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  const tokens = last?.tokens;
  useEffect(() => {
    if (!tokens) return;
    tokenTexts([...tokens.prompt, ...tokens.output], apiKey).then(setTexts, (error: Error) => setProblem(error.message));
  }, [tokens, apiKey]);
  if (!tokens) return <Text size="sm" c="dimmed">The server has not told this answer's tokens.</Text>;
  if (problem) return <Text size="sm">{problem}</Text>;
  if (!texts) return <Loader size="xs" />;
  const prompt = texts.slice(0, tokens.prompt.length);
  const output = texts.slice(tokens.prompt.length);
  return (
    <div>
      <Text size="sm" fw={600}>Prompt, {prompt.length} tokens</Text>
      <Raw texts={prompt} label="Prompt tokens" />
      <Text size="sm" fw={600}>Output, {output.length} tokens</Text>
      <Raw texts={output} label="Output tokens" />
    </div>
  );
}

function Raw({ texts, label }: { texts: string[]; label: string }) {
  return (
    <div className="raw" role="region" aria-label={label} tabIndex={0}>
      {texts.map((text, index) =>
        /^<\|.*\|>$/.test(text) ? <span key={index} className="control">{text}</span> : text,
      )}
    </div>
  );
}
