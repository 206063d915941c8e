/** What the client makes of refusals, and the command line's exit statuses. */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { main } from '../src/cli.js';
import { Client } from '../src/client.js';
import { Refusal } from '../src/refusal.js';

const sealed = (code) => new Refusal(code, 'a test', { status: 409, sealed: true });
const unsealed = (code) => new Refusal(code, 'a test', { status: 409 });

/** A client whose sessions give these results one after the other; `seen` names what it did. */
function clientOf(results) {
  const seen = [];
  const client = new Client({}, {}, () => {});
  const session = {
    needsRekey: () => false,
    send: async () => {
      seen.push('send');
      const result = results.shift();
      if (result instanceof Error) throw result;
      return result;
    },
  };
  client.open = async () => {
    seen.push('open');
    client.session = session;
  };
  client.rotateKeys = async () => seen.push('rotate');
  return { seen, send: () => client.send('POST', '/api/x', '', new Uint8Array()) };
}

test('an unsealed refusal opens one new session', async () => {
  const { seen, send } = clientOf([unsealed('session-expired'), Uint8Array.of(1)]);
  assert.deepEqual(await send(), Uint8Array.of(1));
  assert.deepEqual(seen, ['open', 'send', 'open', 'send']);
});

test('a second unsealed refusal in a row is a server out of reach, not the fate of the request', async () => {
  const { send } = clientOf([unsealed('round-closed'), unsealed('round-closed')]);
  await assert.rejects(send(), { code: 'service-unavailable', sealed: false });
});

test('a sealed refusal is final', async () => {
  const { seen, send } = clientOf([sealed('round-closed')]);
  await assert.rejects(send(), { code: 'round-closed', sealed: true });
  assert.deepEqual(seen, ['open', 'send']);
});

test('a session that has used its allowance is replaced, and keys are rotated where the server demands it', async () => {
  const used = clientOf([sealed('session-limit-reached'), new Uint8Array()]);
  await used.send();
  assert.deepEqual(used.seen, ['open', 'send', 'open', 'send']);
  const old = clientOf([sealed('key-rotation-required'), new Uint8Array()]);
  await old.send();
  assert.deepEqual(old.seen, ['open', 'send', 'rotate', 'open', 'send']);
});

/** Run the command line; its exit status and what it wrote. */
async function run(...args) {
  const written = [];
  const [out, err] = [process.stdout.write, process.stderr.write];
  process.stdout.write = process.stderr.write = (text) => written.push(text);
  try {
    return [await main(args), written.join('')];
  } finally {
    [process.stdout.write, process.stderr.write] = [out, err];
  }
}

test('the exit status is 0 for help, 1 for a wrong command line and 2 for a refusal with its code', async () => {
  const home = mkdtempSync(join(tmpdir(), 'qflare-node-'));
  try {
    const shown = await run('--help');
    assert.equal(shown[0], 0);
    assert.match(shown[1], /NOT encrypted/);
    assert.equal((await run('unknown'))[0], 1);
    assert.equal((await run('session'))[0], 1);
    const refused = await run('enroll', '--server', 'http://x', '--name', 'a', '--token', 'QF1.a.b', '--home', home);
    assert.deepEqual([refused[0], refused[1].split(':')[1].trim()], [2, 'malformed-message']);
  } finally {
    rmSync(home, { recursive: true });
  }
});
