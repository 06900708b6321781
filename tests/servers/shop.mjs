// What the two TypeScript servers share: the catalog, the handlers, and the line that tells where they listen.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
export const shop = JSON.parse(readFileSync(join(here, 'shop.json'), 'utf8'));

/** Options of the low-level servers. */
export const INFO = { name: 'shop', version: '1.0.0' };
export const CAPABILITIES = { capabilities: { tools: {}, prompts: {}, resources: {} } };

/** The answer to a `tools/call`; `progress` sends one notification on the stream of the call. */
export async function call(params, progress) {
  const result = shop.results[params.name];
  if (result === undefined) return { content: [{ type: 'text', text: `Tool ${params.name} not found` }], isError: true };
  if (params.name === 'slow_report') {
    for (const step of [1, 2, 3]) await progress(step, 3, `step ${step} for ada.lovelace@customers.test`);
  }
  return result;
}

/** Serves `/mcp` on a port that the system chooses, and prints it. */
export function listen(handle) {
  const server = createServer((request, response) => {
    if (new URL(request.url, 'http://localhost').pathname !== '/mcp') {
      response.writeHead(404).end();
      return;
    }
    handle(request, response).catch(error => {
      console.error(error);
      if (!response.headersSent) response.writeHead(500);
      response.end();
    });
  });
  server.listen(0, '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${server.address().port}/mcp`));
}
