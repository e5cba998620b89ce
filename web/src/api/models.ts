import { headers, ServerError } from "./stream";

/** The name of the model that is served. */
export async function servedModel(apiKey: string): Promise<string> {
  const response = await fetch("/v1/models", { headers: headers(apiKey) });
  if (response.status === 401) throw new ServerError("This server asks for an API key.");
  if (!response.ok) throw new ServerError(`The server answered ${response.status}`);
  const { data } = await response.json();
  return data[0].id;
}

/** Token ids → the text of each, control tokens as they are written. */
export async function tokenTexts(ids: number[], apiKey: string): Promise<string[]> {
  const response = await fetch("/detokenize", {
    method: "POST",
    headers: headers(apiKey),
    body: JSON.stringify({ tokens: ids, return_token_strs: true }),
  });
  if (!response.ok) throw new ServerError(`/detokenize answered ${response.status}`);
  return (await response.json()).token_strs;
}
