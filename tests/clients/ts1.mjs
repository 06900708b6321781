// Drives the TypeScript SDK of the first generation (@modelcontextprotocol/sdk). Usage: see driver.mjs.
import { load, run } from './driver.mjs';

const { Client } = await load('client-ts1', '@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = await load('client-ts1', '@modelcontextprotocol/sdk/client/streamableHttp.js');

await run(async ({ url, token }) => {
  const headers = token === undefined ? {} : { Authorization: `Bearer ${token}` };
  const client = new Client({ name: 'driver-ts1', version: '1.0.0' });
  await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }));
  return client;
});
