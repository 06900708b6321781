// The demo of a shared quota: two mcp-authz behind one Envoy count in one Redis, many calls come at once, and one of the two is
// killed in the middle. The log of the MCP server tells how many calls ran.
//
// It ends with 0 only if no call ran beyond the limit, and every call that the limit counts is accounted for.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';

import { load } from '../clients/driver.mjs';
import {
  kill9, makeGrant, newSecret, operate, paths, prepareState, runToEnd, startAuthz, startEnvoy, startRedis, startServer, state,
  until, writeDocuments, writeEnvoyConfiguration, writeSettings,
} from './stack.mjs';

const { Client } = await load('client-ts1', '@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = await load('client-ts1', '@modelcontextprotocol/sdk/client/streamableHttp.js');

const MAX = 200;
const AGENTS = 8;
const AT_ONCE = 4;
// One replica dies when so many calls have run.
const KILL_AT = 60;
// Each agent goes on until it was told so often that the limit is used up, or until it has made so many calls.
const REFUSALS = 10;
const CALLS_MAX = 400;
const CALL_MS = 10_000;
const ROUNDS_MAX = 10;
const SETTLED_MS = 500;
const NEW_STORE_MS = 2_000;
// The code of the SDK for a call that it gave up.
const TIMED_OUT = -32001;
// The limit is by the hour of the clock; a run that began shortly before the next would be two.
const HOUR_LEFT_MS = 60_000;

const TOOL = 'post_message';
const POLICY = {
  version: '1',
  default: 'deny',
  tools: {
    [TOOL]: {
      limits: [{ counter: 'messages', window: 'hour', scope: 'grant', max: MAX, on_deny: `Only ${MAX} messages per hour.` }],
    },
  },
};

const colored = process.stdout.isTTY && process.env.NO_COLOR === undefined;
const paint = code => text => (colored ? `\u001b[${code}m${text}\u001b[0m` : text);
const [bold, dim, red, green] = [paint(1), paint(2), paint(31), paint(32)];
const say = text => process.stdout.write(`${text}\n`);
const failures = [];

function check(holds, claim) {
  say(`   ${holds ? green('ok') : red('FAILED')}  ${claim}`);
  if (!holds) failures.push(claim);
}

const lines = path => (existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(0, -1).map(line => JSON.parse(line)) : []);

/** How many calls the MCP server ran, by its own log. */
const executed = () => lines(paths.seen).filter(line => line.event === 'executed' && line.tool === TOOL).length;

/** How many calls one replica let go, by its audit. */
const allowed = replica => lines(replica.audit).filter(line => line.tool_name === TOOL && line.event_type === 'decision' && line.outcome === 'allowed').length;

/** How many answers Envoy cut off because whoever looked at them was gone. Envoy writes its log every few seconds. */
function cutOff() {
  const log = readFileSync(join(state, 'envoy.log'), 'utf8').split('\n');
  const entries = log.filter(line => line.startsWith('{') && line.endsWith('}')).map(line => JSON.parse(line));
  return entries.filter(entry => entry.mcp_method === 'tools/call' && entry.details.startsWith('ext_proc_error')).length;
}

async function connect(url, token) {
  const client = new Client({ name: 'demo-agent', version: '1.0.0' });
  const headers = { Authorization: `Bearer ${token}` };
  await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }), { timeout: CALL_MS });
  return client;
}

/** One call; what the agent was told becomes one of a few words. */
async function call(client, told) {
  let outcome;
  try {
    const result = await client.callTool({ name: TOOL, arguments: { channel: '#support', text: 'hi' } }, undefined, { timeout: CALL_MS });
    const text = result.content?.[0]?.text ?? '';
    if (result.isError !== true) outcome = 'done';
    else if (text.startsWith('[POLICY DENIED]')) outcome = 'limit';
    else if (text.startsWith('[POLICY UNAVAILABLE]')) outcome = 'unavailable';
    else outcome = `an error: ${text}`;
  } catch (error) {
    // Envoy's own answer while it does not know yet that a replica is gone. Of an answer that has begun to arrive only the rest
    // can be withheld, and this SDK then waits for it until its time is over.
    if (error.code === 503) outcome = 'gone';
    else outcome = error.code === TIMED_OUT ? 'cut' : `an error: ${error.message}`;
  }
  told.set(outcome, (told.get(outcome) ?? 0) + 1);
  return outcome;
}

/** Lets every agent call at once until all of them were told often enough that nothing is left. */
async function storm(clients, told, afterCall) {
  const lane = async client => {
    let refusals = 0;
    for (let calls = 0; calls < CALLS_MAX && refusals < REFUSALS; calls += 1) {
      if (await call(client, told) === 'limit') refusals += 1;
      afterCall();
    }
    return refusals === REFUSALS;
  };
  const lanes = clients.flatMap(client => Array.from({ length: AT_ONCE }, () => lane(client)));
  const ends = await Promise.all(lanes);
  return ends.every(end => end);
}

/** Waits for the next hour if this one is nearly over. */
async function freshHour() {
  const left = 3_600_000 - (Date.now() % 3_600_000);
  if (left > HOUR_LEFT_MS) return;
  say(dim(`   (waiting ${Math.ceil(left / 1000)} s, because the limit counts by the hour of the clock)`));
  await new Promise(resolve => { setTimeout(resolve, left + 100); });
}

const count = (n, noun) => `${n} ${noun}${n === 1 ? '' : 's'}`;
const shown = text => stripVTControlCharacters(String(text)).trimEnd().replaceAll('\n', '\n   ');

async function story({ program, replicas, url, token }) {
  const [first, second] = replicas;
  // Limits deny until a store that is new was there for a moment, so that whoever knew it before can say so.
  await new Promise(resolve => { setTimeout(resolve, NEW_STORE_MS); });
  const clients = await Promise.all(Array.from({ length: AGENTS }, () => connect(url, token)));
  await freshHour();
  say(`\n${bold(`${count(AGENTS, 'agent')} with one grant call ${TOOL}, ${AGENTS * AT_ONCE} calls at a time. The limit: ${MAX} an hour.`)}`);
  const told = new Map();
  let killed = false;
  const killOnce = () => {
    if (killed || (told.get('done') ?? 0) < KILL_AT) return;
    killed = true;
    kill9(first.part);
    say(`   ${red('killed')}  ${first.part.name} with SIGKILL, after ${count(executed(), 'message')}`);
  };
  const args = ['show', '--grant', 'demo-agent', '--counter', 'messages'];
  const look = () => JSON.parse(operate(program, second.part, ['quota', ...args, '--output', 'json'])).counters[0];
  let exhausted = false;
  // A call whose answer was late is taken back a moment later; then there is room for one more.
  for (let round = 0; round < ROUNDS_MAX && !(exhausted && look().left === 0); round += 1) {
    exhausted = await storm(clients, told, killOnce);
    await new Promise(resolve => { setTimeout(resolve, SETTLED_MS); });
  }
  await until('the killed replica ending', () => first.part.ended);
  await Promise.all(clients.map(client => client.close().catch(() => {})));

  say(`\n${bold('What the agents were told')}`);
  const words = { done: 'message sent', limit: `[POLICY DENIED] Only ${MAX} messages per hour.`, gone: 'HTTP 503: nobody decided, or nobody could look at the answer', cut: 'the answer was cut off', unavailable: '[POLICY UNAVAILABLE] the limit could not be asked' };
  for (const [outcome, n] of [...told].sort()) say(`   ${String(n).padStart(5)}  ${shown(words[outcome] ?? outcome)}`);

  say(`\n${bold('What an operator sees, asking the replica that lives')}\n   mcp-authz quota ${args.join(' ')}`);
  say(`   ${shown(operate(program, second.part, ['quota', ...args]))}`);
  const cut = told.get('cut') ?? 0;
  await until('Envoy writing its log', () => cutOff() >= cut).catch(() => {});
  judge({ killed, exhausted, told, row: look(), replicas });
}

/** Puts the three counts side by side: of the MCP server, of the limit, of the agents. */
function judge({ killed, exhausted, told, row, replicas }) {
  const ran = executed();
  const [lost, undecided] = [row.used - ran, (told.get('gone') ?? 0) + (told.get('unavailable') ?? 0)];
  const by = replicas.map(replica => allowed(replica));
  say(`\n${bold('What came of it')}`);
  say(`   ${String(ran).padStart(5)}  ran, by the log of the MCP server; by the audit ${by[0]} let go by mcp-authz-1 and ${by[1]} by mcp-authz-2`);
  // The last lines of an audit die with their process.
  say(`   ${String(row.used).padStart(5)}  of ${MAX} counted, by Redis`);
  if (lost > 0) {
    say(`   ${String(lost).padStart(5)}  counted and not run: they were held when their replica was killed, and nobody can tell what became of`);
    say('          them, so they stay spent. An unknown outcome never refills a limit.');
  }
  const others = [...told.keys()].filter(outcome => !['cut', 'done', 'gone', 'limit', 'unavailable'].includes(outcome));
  check(killed, 'one replica was killed in the middle');
  check(by.every(n => n > 0), 'both replicas let calls go');
  check(exhausted, 'the agents asked until nothing was left');
  check(ran <= MAX, `no more than ${MAX} calls ran`);
  check(row.used === MAX && row.left === 0, `the limit is used up: ${MAX} of ${MAX}`);
  check(lost >= 0 && lost <= undecided, lost === 0 ? 'every call that counts has run' : 'whoever was counted and not served was told that nobody decided');
  check((told.get('done') ?? 0) <= ran, 'no agent was told of a message that was not sent');
  check((told.get('cut') ?? 0) <= cutOff(), 'whoever waited in vain lost its answer with the replica');
  check(others.length === 0, 'nobody was told anything else');
}

async function main(argv) {
  const binaries = argv[argv.indexOf('--binaries') + 1];
  prepareState();
  const secret = newSecret();
  writeDocuments(secret);
  writeFileSync(join(paths.policies, 'replicas.json'), JSON.stringify(POLICY, undefined, 2));
  const program = join(binaries, 'mcp-authz');
  const token = makeGrant(program, 'replicas');
  const redis = await startRedis();
  const { port: upstream } = await startServer(join(binaries, 'mcp-authz-fixture'), secret);
  const replicas = [];
  for (const name of ['mcp-authz-1', 'mcp-authz-2']) {
    const audit = join(state, `audit-${name.at(-1)}.jsonl`);
    const settings = writeSettings({ name, audit, more: `ledger:\n  redis:\n    url: ${JSON.stringify(redis)}\n    timeout_ms: 200\n` });
    replicas.push({ settings, audit, part: await startAuthz(program, settings) });
  }
  const sockets = replicas.map(replica => replica.settings.socket);
  const envoy = await startEnvoy(writeEnvoyConfiguration(sockets, upstream));
  const url = `http://127.0.0.1:${envoy.port}/mcp`;
  say(bold('\nagents  ->  Envoy  ->  MCP server'));
  say(bold('             /  \\'));
  say(bold('  mcp-authz-1    mcp-authz-2'));
  say(bold('             \\  /'));
  say(bold('             Redis'));
  await story({ program, replicas, url, token });
  if (failures.length > 0) {
    say(`\n${red(bold(`${count(failures.length, 'claim')} did not hold.`))} What the parts said: .demo/*.log`);
    return 1;
  }
  say(`\n${green(bold('The limit held.'))} The server's log: .demo/upstream.jsonl. All decisions: .demo/audit-1.jsonl and .demo/audit-2.jsonl`);
  return 0;
}

runToEnd(() => main(process.argv.slice(2)));
