// The parts of the demos as processes: an MCP server, mcp-authz, Envoy in front, perhaps Redis, and the files they need.
//
// Each process leads a group of its own, and all groups are ended when this process ends, whatever the reason.
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chmodSync, closeSync, copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { stripVTControlCharacters } from 'node:util';

export const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
export const state = join(root, '.demo');
const files = join(state, 'etc');

/** Where things are, for the story and for the curious. */
export const paths = {
  audit: join(state, 'audit.jsonl'),
  grants: join(files, 'grants'),
  policies: join(files, 'policies'),
  seen: join(state, 'upstream.jsonl'),
};

const START_MS = 20_000;
const STOP_MS = 3_000;
// sockaddr_un holds 108 bytes on Linux, 104 elsewhere.
const SOCKET_PATH_MAX = 100;

const running = [];
let ownsState = false;
let socketFolder;

/** A mistake or an accident that the person at the screen can do something about. */
export class DemoError extends Error {}

function alive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Empties .demo, unless another demo is at work in it. */
export function prepareState() {
  const lock = join(state, 'pid');
  const owner = existsSync(lock) ? Number(readFileSync(lock, 'utf8')) : 0;
  if (owner > 0 && owner !== process.pid && alive(owner)) {
    throw new DemoError(`a demo is already running here (process ${owner}); stop it first`);
  }
  rmSync(state, { recursive: true, force: true });
  mkdirSync(files, { recursive: true, mode: 0o700 });
  writeFileSync(lock, `${process.pid}\n`);
  ownsState = true;
}

/** The text of a file below deploy/ with each given piece replaced; a piece that is not there is a mistake. */
function deployed(name, replacements) {
  let text = readFileSync(join(root, 'deploy', name), 'utf8');
  for (const [from, to] of replacements) {
    if (!text.includes(from)) throw new DemoError(`deploy/${name} no longer holds \`${from}\`, which the demo replaces`);
    text = text.replaceAll(from, to);
  }
  return text;
}

/** A path for a socket in .demo, or elsewhere if that is too long for one. */
function socketPath(name) {
  const path = join(state, name);
  if (path.length <= SOCKET_PATH_MAX) return path;
  socketFolder ??= mkdtempSync(join(tmpdir(), 'mcp-authz-demo-'));
  return join(socketFolder, name);
}

/** The documents of deploy/ and policies/, with a fresh secret for the MCP server and a token for operators. */
export function writeDocuments(secret) {
  copyFileSync(join(root, 'deploy/servers.yaml'), join(files, 'servers.yaml'));
  cpSync(join(root, 'policies'), paths.policies, { recursive: true });
  mkdirSync(paths.grants, { mode: 0o700 });
  mkdirSync(join(files, 'credentials/demo'), { recursive: true, mode: 0o700 });
  writeFileSync(join(files, 'credentials/demo/token'), `${secret}\n`, { mode: 0o600 });
  writeFileSync(join(files, 'admin.token'), `${randomBytes(24).toString('base64url')}\n`, { mode: 0o600 });
}

/** The settings of deploy/ with ports and paths of its own, and `more` lines below. */
export function writeSettings({ name = 'mcp-authz', audit = paths.audit, more = '' } = {}) {
  const socket = socketPath(`${name}.sock`);
  const text = deployed('config.yaml', [
    ['/run/mcp-authz/authz.sock', socket],
    ['127.0.0.1:9192', '127.0.0.1:0'],
    ['../policies', 'policies'],
    ['/var/lib/mcp-authz', join(files, 'counters')],
    ['sink: stdout', `sink: ${JSON.stringify(audit)}`],
  ]);
  const config = join(files, name === 'mcp-authz' ? 'config.yaml' : `${name}.yaml`);
  // Counters are kept in one place.
  const plain = more.startsWith('ledger:') ? text.replace(/^ledger:\n(?: .*\n)+/m, '') : text;
  writeFileSync(config, `${plain}\nadmin:\n  token_file: admin.token\n${more}`);
  return { name, config, socket };
}

/** The configuration of Envoy: deploy/envoy.yaml with other ports, which asks the given sockets in turn. */
export function writeEnvoyConfiguration(sockets, upstreamPort) {
  const endpoint = path => `{endpoint: {address: {pipe: {path: ${path}}}}}`;
  const one = endpoint('/run/mcp-authz/authz.sock');
  // A replica that is gone is left out after two failures, and asked again when it answers its health check.
  const leftOut = cluster => [`    load_assignment:\n      cluster_name: ${cluster}\n`, `    ignore_health_on_host_removal: true
    outlier_detection:
      {split_external_local_origin_errors: true, consecutive_local_origin_failure: 2, base_ejection_time: 1s, max_ejection_percent: 50}
    health_checks:
    - {timeout: 0.5s, interval: 0.5s, no_traffic_interval: 0.5s, unhealthy_threshold: 1, healthy_threshold: 1, grpc_health_check: {}}
    load_assignment:
      cluster_name: ${cluster}
`];
  const replicas = sockets.length < 2 ? [] : ['mcp_authz', 'mcp_authz_responses'].map(leftOut);
  const text = deployed('envoy.yaml', [
    ['port_value: 10000', 'port_value: 0'],
    ['port_value: 9901', 'port_value: 0'],
    ['port_value: 8080', `port_value: ${upstreamPort}`],
    [one, sockets.map(endpoint).join(', ')],
    ...replicas,
  ]);
  const path = join(state, 'envoy.yaml');
  writeFileSync(path, text);
  return path;
}

// Runs "$@" and ends it when descriptor 3 closes. This process holds the other end, so the program cannot outlive it, not
// even when it is killed in a way that it cannot notice. The leash ends with the program: by the time descriptor 3 closes, the
// number of one that was killed may be that of somebody else's process.
const LEASH = '"$@" 3<&- & child=$!; echo "$child" >"$PID_FILE"; { read -r _ <&3; kill "$child"; } 2>/dev/null & leash=$!; '
  + 'wait "$child"; status=$?; kill "$leash" 2>/dev/null; exit "$status"';

/** Starts a program whose output goes to .demo/<name>.log and whose process id goes to .demo/<name>.pid. */
export function start(name, program, args) {
  const log = join(state, `${name}.log`);
  const out = openSync(log, 'w');
  const child = spawn('sh', ['-c', LEASH, 'sh', program, ...args], {
    cwd: root,
    detached: true,
    env: { ...process.env, PID_FILE: join(state, `${name}.pid`) },
    stdio: ['ignore', out, out, 'pipe'],
  });
  closeSync(out);
  const part = { name, child, log, ended: false };
  child.on('error', () => { part.ended = true; });
  child.on('exit', () => { part.ended = true; });
  running.push(part);
  return part;
}

const pause = ms => new Promise(resolve => { setTimeout(resolve, ms); });

/** Polls `look` until it gives something; a part that ends meanwhile ends the waiting. */
export async function until(what, look, part) {
  const deadline = Date.now() + START_MS;
  for (;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (part?.ended) throw new DemoError(`${part.name} ended while ${what}; its last words:\n${lastLines(part.log)}`);
    if (Date.now() > deadline) {
      throw new DemoError(`${what} took more than ${START_MS / 1000} s${part ? `; ${part.name} said:\n${lastLines(part.log)}` : ''}`);
    }
    await pause(50);
  }
}

function lastLines(log) {
  const lines = existsSync(log) ? readFileSync(log, 'utf8').trimEnd().split('\n') : [];
  return lines.slice(-15).map(line => `    ${line}`).join('\n');
}

/** Makes a grant of one day for the server of the demo and gives its token. */
export function makeGrant(program, policy) {
  const file = join(paths.grants, 'demo.yaml');
  const args = ['grant', 'new', '--label', 'demo-agent', '--server', 'demo', '--policy', policy, '--expires', '1d', '--file', file];
  let out;
  try {
    out = execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (error) {
    throw new DemoError(`\`mcp-authz grant new\` failed: ${error.stderr ?? error.message}`);
  }
  const token = /mcpa_[0-9A-Za-z_-]{43}/.exec(out)?.[0];
  if (token === undefined) throw new DemoError(`\`mcp-authz grant new\` showed no token:\n${out}`);
  return token;
}

/** Starts the MCP server, which takes nothing but the secret; `port` 0 lets the system choose. */
export async function startServer(program, secret, { port = 0, describe = [] } = {}) {
  const part = start('server', program, [
    '--listen', `127.0.0.1:${port}`, '--record', paths.seen, '--require-authorization', `Bearer ${secret}`,
    ...describe.flatMap(text => ['--describe', text]),
  ]);
  const look = () => /listening on http:\/\/127\.0\.0\.1:(\d+)\/mcp/.exec(readFileSync(part.log, 'utf8'))?.[1];
  part.port = Number(await until('starting the MCP server', look, part));
  return part;
}

/** Ends the MCP server and starts it again at the same place, with other descriptions of its tools. */
export async function restartServer(part, program, secret, describe) {
  kill9(part);
  await until('ending the MCP server', () => part.ended);
  return startServer(program, secret, { port: part.port, describe });
}

/** Starts mcp-authz and waits for its socket. */
export async function startAuthz(program, { name, config, socket }) {
  const part = start(name, program, ['serve', '--config', config]);
  const log = () => readFileSync(part.log, 'utf8');
  await until(`starting ${name}`, () => existsSync(socket) && log().includes('Ready.'), part);
  chmodSync(socket, 0o600);
  const admin = /service="?admin"? address="?([0-9.]+:\d+)/.exec(stripVTControlCharacters(log()))?.[1];
  if (admin === undefined) throw new DemoError(`${name} did not say where its admin port is; see ${part.log}`);
  part.admin = admin;
  return part;
}

/** Ends a process of ours at once, as a crash or the kernel would. */
export function kill9(part) {
  process.kill(Number(readFileSync(join(state, `${part.name}.pid`), 'utf8')), 'SIGKILL');
}

/** What leads `mcp-authz quota` and `mcp-authz pins` to one replica. */
export const operatorArguments = part => ['--admin', part.admin, '--token-file', join(files, 'admin.token')];

/** What `mcp-authz quota` or `mcp-authz pins` says, asked through the admin port of one replica. */
export function operate(program, part, args) {
  return execFileSync(program, [...args, ...operatorArguments(part)], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Starts a Redis that keeps its counts and never evicts; gives its URL. */
export async function startRedis() {
  const folder = join(state, 'redis');
  mkdirSync(folder, { mode: 0o700 });
  const socket = socketPath('redis.sock');
  const part = start('redis', 'redis-server', [
    '--port', '0', '--unixsocket', socket, '--unixsocketperm', '700', '--dir', folder, '--save', '', '--appendonly', 'yes',
    '--maxmemory', '64mb', '--maxmemory-policy', 'noeviction', '--daemonize', 'no',
  ]);
  const ready = () => existsSync(socket) && /ready to accept connections/i.test(readFileSync(part.log, 'utf8'));
  await until('starting Redis', ready, part);
  return `unix://${socket}`;
}

/** Starts Envoy and gives the port that agents connect to. */
export async function startEnvoy(config) {
  const admin = join(state, 'envoy.admin');
  const args = ['-c', config, '--admin-address-path', admin, '--disable-hot-restart', '--concurrency', '1', '--log-level', 'warning'];
  const part = start('envoy', join(root, '.tools/bin/envoy'), args);
  const address = await until('starting Envoy', () => existsSync(admin) && readFileSync(admin, 'utf8').trim(), part);
  const port = await until('Envoy opening its listener', async () => {
    const get = path => fetch(`http://${address}${path}`).catch(() => undefined);
    if ((await get('/ready'))?.status !== 200) return undefined;
    const listeners = await (await get('/listeners?format=json'))?.json();
    return listeners?.listener_statuses?.[0]?.local_address?.socket_address?.port_value;
  }, part);
  return { part, port };
}

/** Ends everything that was started: by its leash, and by force if that takes too long. */
export async function stopAll() {
  const parts = [...running].reverse();
  parts.forEach(part => part.child.stdio[3]?.destroy());
  const deadline = Date.now() + STOP_MS;
  while (parts.some(part => !part.ended) && Date.now() < deadline) await pause(20);
  kill();
  if (socketFolder !== undefined) rmSync(socketFolder, { recursive: true, force: true });
  // Another demo may be why this one ends.
  if (ownsState) rmSync(join(state, 'pid'), { force: true });
}

function kill() {
  for (const part of running.filter(part => !part.ended)) {
    try {
      process.kill(-part.child.pid, 'SIGKILL');
    } catch {
      // The group is gone already.
    }
  }
}

// For an end that nobody foresaw: only synchronous work is possible here.
process.on('exit', kill);

/** A secret of its own for each run. */
export const newSecret = () => `upstream-${randomBytes(18).toString('base64url')}`;

/**
 * Runs a demo, ends all its parts, then this process: with the status that the demo comes to, or on a signal with the one that
 * `statusOf` its number says.
 */
export function runToEnd(run, statusOf = number => 128 + number) {
  let leaving = false;

  async function leave(status) {
    if (leaving) return;
    leaving = true;
    await stopAll();
    process.exit(status);
  }

  for (const [signal, number] of [['SIGHUP', 1], ['SIGINT', 2], ['SIGTERM', 15]]) {
    process.on(signal, () => {
      // A second signal does not wait for an orderly end.
      if (leaving) process.exit(128 + number);
      leave(statusOf(number));
    });
  }

  run().then(leave, error => {
    // Parts that end because everything ends are no news.
    if (leaving) return;
    process.stderr.write(`\ndemo: ${error instanceof DemoError ? error.message : (error?.stack ?? error)}\n`);
    leave(1);
  });
}
