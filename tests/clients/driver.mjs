// What the two TypeScript drivers share: arguments, the script on stdin, one JSON line for each step, and a time limit on each step.
//
// A driver exits with 0 whatever the server answered: a refused call is an observation, not a failure.
// Another exit code means that the driver itself broke.
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));

/** Loads a module of a package that tests/tools/install.sh put into .tools/<tool>. */
export async function load(tool, specifier) {
  const folder = join(process.env.MCP_AUTHZ_TOOLS ?? join(here, '../../.tools'), tool);
  let path;
  try {
    path = createRequire(join(folder, 'package.json')).resolve(specifier);
  } catch (error) {
    console.error(`${specifier} is missing (${error.code}): run tests/tools/install.sh ${tool}`);
    process.exit(69);
  }
  return import(pathToFileURL(path).href);
}

function parseArguments(argv) {
  const options = { url: undefined, token: undefined, mode: 'legacy', timeoutMs: 10_000 };
  const rest = [...argv];
  while (rest.length > 0) {
    const word = rest.shift();
    if (word === '--token') options.token = rest.shift();
    else if (word === '--mode') options.mode = rest.shift();
    else if (word === '--timeout-ms') options.timeoutMs = Number(rest.shift());
    else if (options.url === undefined && !word.startsWith('--')) options.url = word;
    else throw new Error(`unexpected argument ${word}`);
  }
  if (options.url === undefined || !['legacy', 'modern'].includes(options.mode)) {
    console.error('usage: DRIVER URL [--token TOKEN] [--mode legacy|modern] [--timeout-ms N] < steps.json');
    process.exit(64);
  }
  return options;
}

async function readStdin() {
  let text = '';
  for await (const chunk of process.stdin) text += chunk;
  return text;
}

class StepTimeout extends Error {}

async function within(milliseconds, work) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new StepTimeout('timeout')), milliseconds);
  });
  try {
    return await Promise.race([work(), limit]);
  } finally {
    clearTimeout(timer);
  }
}

const textOf = content => (content ?? []).map(part => part.text ?? `<${part.type}>`).join('\n');

/** What one step did, in the one shape that all drivers print. */
function observation(op, result) {
  const names = result?.tools ?? result?.prompts ?? result?.resources ?? result?.resourceTemplates;
  return {
    op,
    ok: true,
    isError: result?.isError === true,
    text: textOf(result?.content ?? result?.contents ?? result?.messages?.map(message => message.content)),
    structured: result?.structuredContent ?? null,
    names: names?.map(entry => entry.name),
    meta: result?._meta ?? null,
  };
}

function failure(op, error) {
  const timedOut = error instanceof StepTimeout;
  return {
    op,
    ok: false,
    isError: false,
    text: '',
    meta: null,
    errorClass: timedOut ? 'timeout' : (error?.constructor?.name ?? typeof error),
    code: typeof error?.code === 'number' || typeof error?.code === 'string' ? error.code : null,
    message: String(error?.message ?? error),
  };
}

async function step(client, { op, ...rest }) {
  switch (op) {
    case 'list':
      return client.listTools();
    case 'call':
      return client.callTool({ name: rest.tool, arguments: rest.arguments ?? {} });
    case 'ping':
      return client.ping();
    case 'list_prompts':
      return client.listPrompts();
    case 'get_prompt':
      return client.getPrompt({ name: rest.name, arguments: rest.arguments ?? {} });
    case 'list_resources':
      return client.listResources();
    case 'read_resource':
      return client.readResource({ uri: rest.uri });
    default:
      throw new Error(`the driver knows no step named ${op}`);
  }
}

/** Connects, runs every step, prints one line for each (the first line is the connection), and leaves. */
export async function run(connect) {
  const options = parseArguments(process.argv.slice(2));
  const steps = JSON.parse(await readStdin());
  const print = line => process.stdout.write(`${JSON.stringify(line)}\n`);
  let client;
  try {
    client = await within(options.timeoutMs, () => connect(options));
    print({ ...observation('connect', {}), text: client.getServerVersion?.()?.name ?? '' });
  } catch (error) {
    print(failure('connect', error));
  }
  for (const one of steps) {
    try {
      if (client === undefined) throw new Error('not connected');
      print(observation(one.op, await within(options.timeoutMs, () => step(client, one))));
    } catch (error) {
      print(failure(one.op, error));
    }
  }
  await within(2_000, async () => client?.close()).catch(() => {});
  // A client may hold a stream open; the work is done and every line is written.
  process.stdout.write('', () => process.exit(0));
}
