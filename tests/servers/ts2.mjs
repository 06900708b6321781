// The shop on the TypeScript SDK v2: both eras, plain JSON in the modern one.
import { load } from '../clients/driver.mjs';
import { CAPABILITIES, INFO, call, listen, shop } from './shop.mjs';

const { Server, createMcpHandler } = await load('server-ts2', '@modelcontextprotocol/server');
const { toNodeHandler } = await load('server-ts2', '@modelcontextprotocol/node');

function shopServer() {
  const server = new Server(INFO, CAPABILITIES);
  server.setRequestHandler('tools/list', async () => ({ tools: shop.tools }));
  server.setRequestHandler('prompts/list', async () => ({ prompts: shop.prompts }));
  server.setRequestHandler('resources/list', async () => ({ resources: shop.resources }));
  server.setRequestHandler('resources/templates/list', async () => ({ resourceTemplates: shop.resourceTemplates }));
  server.setRequestHandler('tools/call', async ({ params }, context) =>
    call(params, async (progress, total, message) => {
      const progressToken = params._meta?.progressToken;
      if (progressToken === undefined) return;
      await context.mcpReq.notify({
        method: 'notifications/progress',
        params: { progressToken, progress, total, message },
      });
    }),
  );
  return server;
}

const handle = toNodeHandler(createMcpHandler(shopServer));
listen(async (request, response) => handle(request, response));
