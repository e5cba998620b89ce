import { ActionIcon, Button, Group, Text, Textarea, Title } from "@mantine/core";
import { IconPencil, IconRefresh } from "@tabler/icons-react";
import { useEffect, useRef, useState } from "react";

import { askAgain } from "../state/run";
import { currentConversation, useStore } from "../state/store";
import type { Conversation, Side, Turn } from "../state/types";
import { AnswerView } from "./AnswerView";
import { useBusy } from "./Composer";

export function Turns() {
  const conversation = useStore(currentConversation);
  const compare = useStore((state) => state.panels.compare);
  const frame = useRef<HTMLDivElement>(null);
  useFollowing(frame, conversation);
  return (
    <div className="turns" ref={frame} tabIndex={-1}>
      <div className={compare ? "column wide" : "column"} role="log" aria-label="Conversation" aria-live="off">
        {conversation ? (
          conversation.turns.map((turn) => <TurnView key={turn.id} conversation={conversation} turn={turn} />)
        ) : (
          <Welcome />
        )}
      </div>
    </div>
  );
}

/** Keeps the end in sight while an answer grows, unless the person has scrolled away from it. */
function useFollowing(frame: React.RefObject<HTMLDivElement | null>, conversation: Conversation | undefined) {
  const follows = useRef(true);
  useEffect(() => {
    const element = frame.current!;
    let height = 0; // as last seen below: what has grown since then, nobody has scrolled away from
    const onScroll = () => {
      follows.current = height - element.scrollTop - element.clientHeight < 80;
    };
    element.addEventListener("scroll", onScroll, { passive: true });
    const observer = new ResizeObserver(() => {
      height = element.scrollHeight;
      if (follows.current) element.scrollTop = height;
    });
    observer.observe(element);
    observer.observe(element.firstElementChild!);
    return () => {
      element.removeEventListener("scroll", onScroll);
      observer.disconnect();
    };
  }, [frame]);
  useEffect(() => {
    follows.current = true;
    frame.current!.scrollTop = frame.current!.scrollHeight;
  }, [frame, conversation?.id, conversation?.turns.length]);
}

function Welcome() {
  const model = useStore((state) => state.model);
  return (
    <div>
      <Title order={2} mb="xs">
        {model ? `Talk to ${model}` : "mosso"}
      </Title>
      <Text c="dimmed">
        Its thinking is shown apart from its answers. Effort, tools, a JSON schema and sampling are under Settings;
        Compare answers every question with two settings side by side.
      </Text>
    </div>
  );
}

function TurnView({ conversation, turn }: { conversation: Conversation; turn: Turn }) {
  const sides = (Object.keys(turn.answers) as Side[]).sort();
  return (
    <article className="turn">
      <Question conversation={conversation} turn={turn} />
      <div className={sides.length > 1 ? "answers two" : "answers"}>
        {sides.map((side) => (
          <AnswerView
            key={side}
            conversation={conversation.id}
            turn={turn.id}
            side={side}
            named={sides.length > 1}
            answer={turn.answers[side]!}
          />
        ))}
      </div>
    </article>
  );
}

function Question({ conversation, turn }: { conversation: Conversation; turn: Turn }) {
  const [draft, setDraft] = useState<string | null>(null);
  const busy = useBusy();
  if (draft !== null) {
    const send = () => {
      askAgain(conversation.id, turn.id, draft.trim());
      setDraft(null);
    };
    return (
      <div>
        <Textarea
          aria-label="Edit the question"
          autosize
          autoFocus
          value={draft}
          onChange={(event) => setDraft(event.currentTarget.value)}
        />
        <Group gap="xs" my="xs" justify="flex-end">
          <Button variant="default" size="xs" onClick={() => setDraft(null)}>
            Cancel
          </Button>
          <Button size="xs" disabled={!draft.trim()} onClick={send}>
            Send again
          </Button>
        </Group>
      </div>
    );
  }
  return (
    <div className="asked">
      <div className="question">{turn.question}</div>
      <Group gap={2}>
        <ActionIcon variant="subtle" color="gray" size="sm" aria-label="Edit the question" disabled={busy} onClick={() => setDraft(turn.question)}>
          <IconPencil size={14} />
        </ActionIcon>
        <ActionIcon variant="subtle" color="gray" size="sm" aria-label="Ask again" disabled={busy} onClick={() => askAgain(conversation.id, turn.id, turn.question)}>
          <IconRefresh size={14} />
        </ActionIcon>
      </Group>
    </div>
  );
}
