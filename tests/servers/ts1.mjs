// The shop on the TypeScript SDK v1: sessions, SSE answers with priming events, resumable streams.
import { randomUUID } from 'node:crypto';

import { load } from '../clients/driver.mjs';
import { CAPABILITIES, INFO, call, listen, shop } from './shop.mjs';

const sdk = name => load('client-ts1', `@modelcontextprotocol/sdk/${name}`);
const { Server } = await sdk('server/index.js');
const { StreamableHTTPServerTransport } = await sdk('server/streamableHttp.js');
const types = await sdk('types.js');

/** Keeps every event, so that a client can resume; a server for tests needs no bound. */
class Events {
  #events = [];

  async storeEvent(streamId, message) {
    this.#events.push({ streamId, message });
    return String(this.#events.length);
  }

  async replayEventsAfter(lastEventId, { send }) {
    const last = Number(lastEventId);
    const { streamId } = this.#events[last - 1];
    for (const [index, event] of this.#events.entries()) {
      if (index >= last && event.streamId === streamId) await send(String(index + 1), event.message);
    }
    return streamId;
  }
}

function shopServer() {
  const server = new Server(INFO, CAPABILITIES);
  server.setRequestHandler(types.ListToolsRequestSchema, async () => ({ tools: shop.tools }));
  server.setRequestHandler(types.ListPromptsRequestSchema, async () => ({ prompts: shop.prompts }));
  server.setRequestHandler(types.ListResourcesRequestSchema, async () => ({ resources: shop.resources }));
  server.setRequestHandler(types.ListResourceTemplatesRequestSchema, async () => ({
    resourceTemplates: shop.resourceTemplates,
  }));
  server.setRequestHandler(types.CallToolRequestSchema, async ({ params }, { sendNotification }) =>
    call(params, async (progress, total, message) => {
      const progressToken = params._meta?.progressToken;
      if (progressToken === undefined) return;
      await sendNotification({ method: 'notifications/progress', params: { progressToken, progress, total, message } });
    }),
  );
  return server;
}

const sessions = new Map();
const eventStore = new Events();

listen(async (request, response) => {
  let transport = sessions.get(request.headers['mcp-session-id']);
  if (transport === undefined) {
    transport = new StreamableHTTPServerTransport({
      eventStore,
      sessionIdGenerator: randomUUID,
      onsessioninitialized: id => sessions.set(id, transport),
    });
    await shopServer().connect(transport);
  }
  await transport.handleRequest(request, response);
});
