// Drives the TypeScript SDK of the second generation (@modelcontextprotocol/client), in both eras. Usage: see driver.mjs.
import { load, run } from './driver.mjs';

const { Client, StreamableHTTPClientTransport } = await load('client-ts2', '@modelcontextprotocol/client');

await run(async ({ url, token, mode }) => {
  const headers = token === undefined ? {} : { Authorization: `Bearer ${token}` };
  const versionNegotiation = { mode: mode === 'modern' ? { pin: '2026-07-28' } : 'legacy' };
  const client = new Client({ name: 'driver-ts2', version: '1.0.0' }, { versionNegotiation });
  await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }));
  return client;
});
