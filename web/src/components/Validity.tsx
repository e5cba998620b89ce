import { Validator } from "@cfworker/json-schema";
import { Text } from "@mantine/core";
import { IconCircleCheck, IconCircleX } from "@tabler/icons-react";

import { useStore } from "../state/store";
import type { Side } from "../state/types";

/** Whether `text` is JSON of the schema; null: it is, else what is wrong. */
export function fault(text: string, schema: string): string | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return "The answer is not JSON.";
  }
  try {
    const { valid, errors } = new Validator(JSON.parse(schema), "2020-12", false).validate(value);
    const first = errors.at(-1);
    return valid ? null : `${first?.instanceLocation ?? ""}: ${first?.error ?? "invalid"}`;
  } catch (error) {
    return `The schema cannot be read: ${(error as Error).message}`;
  }
}

/** Says whether an answer is of the schema that is attached now. */
export function Validity({ text, side, done }: { text: string; side: Side; done: boolean }) {
  const { schemaOn, schema } = useStore((state) => state.settings[side]);
  if (!schemaOn || !done) return null;
  const wrong = fault(text, schema);
  return (
    <Text size="sm" c={wrong ? "var(--mantine-color-error)" : "dimmed"} data-testid="validity">
      {wrong ? <IconCircleX size={14} /> : <IconCircleCheck size={14} />}{" "}
      {wrong ? `Not of the schema. ${wrong}` : "Valid: the answer is of the schema."}
    </Text>
  );
}
