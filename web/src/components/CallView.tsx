import { Badge, Button, Group, Text, Textarea } from "@mantine/core";
import { IconTool } from "@tabler/icons-react";
import { useState } from "react";

import { answerCall } from "../state/run";
import type { Call, Side } from "../state/types";

interface Props {
  call: Call;
  ready: boolean; // the round has ended: results may be given
  conversation: string;
  turn: string;
  side: Side;
}

/** A call with its arguments as they arrive, and its result: a tool's of the server, or what a person says. */
export function CallView({ call, ready, conversation, turn, side }: Props) {
  const [draft, setDraft] = useState("");
  const asked = call.byHand && call.output === null && ready;
  return (
    <div className="call" role="group" aria-label={`Call of ${call.name}`}>
      <Group gap="xs">
        <IconTool size={16} />
        <Text fw={600} ff="monospace" size="sm">
          {call.name}
        </Text>
        <Badge size="sm" variant="default">
          {call.output !== null ? "answered" : call.written ? "waits for a result" : "being written"}
        </Badge>
      </Group>
      <pre aria-label="Arguments" tabIndex={0}>{pretty(call)}</pre>
      {call.output !== null && <pre aria-label="Result" tabIndex={0}>{call.output}</pre>}
      {asked && (
        <form
          onSubmit={(event) => {
            event.preventDefault();
            answerCall(conversation, turn, side, call.callId, draft);
          }}
        >
          <Textarea
            label="Result"
            description="What the function returns; the model reads it and goes on."
            autosize
            minRows={1}
            maxRows={10}
            value={draft}
            onChange={(event) => setDraft(event.currentTarget.value)}
          />
          <Button type="submit" size="xs" mt="xs">
            Send the result
          </Button>
        </form>
      )}
    </div>
  );
}

function pretty(call: Call): string {
  if (!call.written) return call.arguments;
  try {
    return JSON.stringify(JSON.parse(call.arguments), null, 2);
  } catch {
    return call.arguments;
  }
}
