import { HoverCard, Table, Text } from "@mantine/core";
import { memo } from "react";

import type { TokenInfo } from "../state/types";

const STEPS = [0.1, 0.3, 0.6, 0.9]; // probabilities between the colours p0 … p4

export function shade(logprob: number): string {
  const probability = Math.exp(logprob);
  const step = STEPS.findIndex((limit) => probability < limit);
  return `p${step < 0 ? STEPS.length : step}`;
}

const percent = (logprob: number): string => `${(100 * Math.exp(logprob)).toFixed(1)} %`;

export function visible(token: string): string {
  return token.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ +$/, (spaces) => "␣".repeat(spaces.length));
}

/** The answer's tokens, coloured by how likely each was; a token tells the others on hover or focus. */
export const Tokens = memo(({ tokens }: { tokens: TokenInfo[] }) => (
  <div className="tokens">
    {tokens.map((token, index) => (
      <Token key={index} token={token} />
    ))}
  </div>
));

const Token = memo(({ token }: { token: TokenInfo }) => (
  <HoverCard openDelay={80} closeDelay={20} withinPortal shadow="md">
    <HoverCard.Target>
      <button className={`token ${shade(token.logprob)}`} aria-label={`${visible(token.token)}: ${percent(token.logprob)}`}>
        {token.token}
      </button>
    </HoverCard.Target>
    <HoverCard.Dropdown>
      <Table verticalSpacing={2} aria-label="Alternatives">
        <Table.Tbody>
          {token.top_logprobs.map((other) => (
            <Table.Tr key={other.token}>
              <Table.Td>
                <Text ff="monospace" size="sm" fw={other.token === token.token ? 700 : 400}>
                  {visible(other.token)}
                </Text>
              </Table.Td>
              <Table.Td>
                <Text size="sm">{percent(other.logprob)}</Text>
              </Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </HoverCard.Dropdown>
  </HoverCard>
));
