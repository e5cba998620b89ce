import { ActionIcon, Alert, Badge, Button, CopyButton, Group, Loader, Text as Words, Tooltip } from "@mantine/core";
import { IconAbc, IconBraces, IconCheck, IconCopy, IconPlayerStop } from "@tabler/icons-react";
import { memo, useEffect, useState } from "react";

import { waiting } from "../api/request";
import { stop, thinkNoMore } from "../state/run";
import { useStore } from "../state/store";
import type { Answer, Part, Round, Side, Thinking } from "../state/types";
import { CallView } from "./CallView";
import { Markdown } from "./Markdown";
import { RawView } from "./RawView";
import { Tokens } from "./Tokens";
import { Validity } from "./Validity";

interface Place {
  conversation: string;
  turn: string;
  side: Side;
}

interface Props extends Place {
  named: boolean;
  answer: Answer;
}

export const AnswerView = memo(({ conversation, turn, side, named, answer }: Props) => {
  const [shown, setShown] = useState<"text" | "tokens" | "raw">("text");
  const last = answer.rounds.at(-1);
  if (!last) return null;
  const running = last.status === "running";
  const text = answer.rounds.flatMap((round) => round.parts).filter((part) => part.kind === "text" && !part.preamble);
  const whole = text.map((part) => (part.kind === "text" ? part.text : "")).join("\n\n");
  const hasTokens = text.some((part) => part.kind === "text" && part.tokens.length > 0);
  return (
    <section aria-label={named ? `Answer ${side.toUpperCase()}` : "Answer"} aria-busy={running}>
      {named && <Badge variant="light" mb={6}>{side.toUpperCase()}</Badge>}
      {shown === "raw" ? (
        <RawView rounds={answer.rounds} />
      ) : (
        answer.rounds.map((round, index) => (
          <RoundView key={index} round={round} asTokens={shown === "tokens"} conversation={conversation} turn={turn} side={side} />
        ))
      )}
      <Validity text={whole} side={side} done={!running && whole !== ""} />
      {last.error && (
        <Alert color="red" role="alert" my="xs">
          {last.error}
        </Alert>
      )}
      {last.status === "incomplete" && <Words size="sm" c="dimmed">The limit of tokens ended it here.</Words>}
      {last.status === "stopped" && <Words size="sm" c="dimmed">Stopped.</Words>}
      <Group gap={4} mt={4}>
        {running ? (
          <Button size="compact-xs" variant="default" leftSection={<IconPlayerStop size={14} />} onClick={() => stop(turn, side)}>
            Stop
          </Button>
        ) : (
          <>
            <CopyButton value={whole}>
              {({ copied, copy }) => (
                <Tool label={copied ? "Copied" : "Copy the answer"} onClick={copy}>
                  {copied ? <IconCheck size={15} /> : <IconCopy size={15} />}
                </Tool>
              )}
            </CopyButton>
            {hasTokens && (
              <Tool label="Token probabilities" pressed={shown === "tokens"} onClick={() => setShown(shown === "tokens" ? "text" : "tokens")}>
                <IconAbc size={15} />
              </Tool>
            )}
            <Tool label="Raw Harmony" pressed={shown === "raw"} onClick={() => setShown(shown === "raw" ? "text" : "raw")}>
              <IconBraces size={15} />
            </Tool>
          </>
        )}
      </Group>
      <SpeedLine rounds={answer.rounds} />
      <span className="visually-hidden" role="status">
        {running ? "The model is answering" : waiting(last).length ? "The model waits for a tool's result" : "The answer is complete"}
      </span>
    </section>
  );
});

function Tool({ label, pressed, onClick, children }: { label: string; pressed?: boolean; onClick: () => void; children: React.ReactNode }) {
  return (
    <Tooltip label={label} withinPortal>
      <ActionIcon variant={pressed ? "light" : "subtle"} color={pressed ? undefined : "gray"} size="sm" aria-label={label} aria-pressed={pressed} onClick={onClick}>
        {children}
      </ActionIcon>
    </Tooltip>
  );
}

const RoundView = memo(({ round, asTokens, ...place }: Place & { round: Round; asTokens: boolean }) => {
  const running = round.status === "running";
  return (
    <>
      {running && round.parts.length === 0 && <Loader size="xs" type="dots" aria-label="Waiting" />}
      {round.parts.map((part, index) => (
        <PartView
          key={part.id}
          part={part}
          round={round}
          growing={running && index === round.parts.length - 1}
          asTokens={asTokens}
          {...place}
        />
      ))}
    </>
  );
});

interface PartProps extends Place {
  part: Part;
  round: Round;
  growing: boolean;
  asTokens: boolean;
}

function PartView({ part, round, growing, asTokens, ...place }: PartProps) {
  switch (part.kind) {
    case "thinking":
      return <ThinkingView part={part} round={round} growing={growing} />;
    case "call":
      return <CallView call={part} ready={round.status !== "running"} {...place} />;
    case "text":
      return asTokens && part.tokens.length ? <Tokens tokens={part.tokens} /> : <Markdown text={part.text} growing={growing} />;
  }
}

function ThinkingView({ part, round, growing }: { part: Thinking; round: Round; growing: boolean }) {
  const [open, setOpen] = useState(true);
  const [ending, setEnding] = useState(false);
  const seconds = useSeconds(part);
  useEffect(() => {
    if (!growing) setOpen(false); // the answer has the stage; a click brings the thinking back
  }, [growing]);
  const end = () => {
    setEnding(true);
    thinkNoMore(round).catch((error: Error) => {
      setEnding(false);
      useStore.setState({ problem: error.message });
    });
  };
  return (
    <details className="thinking" open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        {growing ? "Thinking" : "Thought"} for {seconds} s{" "}
        {growing && round.responseId && (
          <Button
            size="compact-xs" variant="default" disabled={ending}
            onClick={(event) => {
              event.preventDefault();
              end();
            }}
          >
            Answer now
          </Button>
        )}
      </summary>
      <div className="thought">{part.text}</div>
    </details>
  );
}

/** The duration of a thinking part in seconds, as text; ticks while it goes on. */
function useSeconds(part: Thinking): string {
  const [now, setNow] = useState(() => performance.now());
  const running = part.ended === null;
  useEffect(() => {
    if (!running) return;
    const timer = setInterval(() => setNow(performance.now()), 100);
    return () => clearInterval(timer);
  }, [running]);
  return (Math.max(0, (part.ended ?? now) - part.began) / 1000).toFixed(1);
}

const SHORTEST = 0.05; // seconds: less is how fast this page read what was there, not how fast it was made

export function tokensPerSecond(tokens: number, seconds: number): number | null {
  return seconds < SHORTEST ? null : tokens / seconds;
}

function SpeedLine({ rounds }: { rounds: Round[] }) {
  const done = rounds.filter((round) => round.usage !== null && round.firstToken !== null && round.ended !== null);
  const last = done.at(-1);
  if (!last) return null;
  const output = done.reduce((sum, round) => sum + round.usage!.output, 0);
  const seconds = done.reduce((sum, round) => sum + (round.ended! - round.firstToken!) / 1000, 0);
  const pace = tokensPerSecond(output, seconds);
  const first = done[0]!;
  return (
    <div className="speed" data-testid="speed">
      <span>first token {(first.firstToken! - first.began).toFixed(0)} ms</span>
      {pace !== null && <span>{pace.toFixed(0)} tokens/s</span>}
      <span>
        {output} tokens ({done.reduce((sum, round) => sum + round.usage!.reasoning, 0)} thinking)
      </span>
      <span>
        prompt {last.usage!.input}, {last.usage!.cached} cached
      </span>
    </div>
  );
}
