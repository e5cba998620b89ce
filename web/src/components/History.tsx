import { ActionIcon, Button, Text } from "@mantine/core";
import { IconPlus, IconTrash } from "@tabler/icons-react";

import { deleteConversation, editPanels, newConversation, openConversation, useStore } from "../state/store";

export function History({ narrow }: { narrow: boolean }) {
  const conversations = useStore((state) => state.conversations);
  const current = useStore((state) => state.current);
  const then = (act: () => void) => () => {
    act();
    if (narrow) editPanels({ navigation: false });
  };
  return (
    <>
      <Button fullWidth mb="sm" leftSection={<IconPlus size={16} />} onClick={then(newConversation)}>
        New conversation
      </Button>
      {conversations.length === 0 && (
        <Text size="sm" c="dimmed">
          Conversations are kept in this browser only.
        </Text>
      )}
      <ul className="history">
        {conversations.map((one) => (
          <li key={one.id}>
            <button className="open" aria-current={one.id === current} onClick={then(() => openConversation(one.id))}>
              {one.title}
            </button>
            <ActionIcon
              variant="subtle"
              color="gray"
              size="sm"
              aria-label={`Delete ${one.title}`}
              onClick={() => deleteConversation(one.id)}
            >
              <IconTrash size={14} />
            </ActionIcon>
          </li>
        ))}
      </ul>
    </>
  );
}
