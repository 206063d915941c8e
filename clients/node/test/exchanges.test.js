/** Exchanges whose both sides are here: rekeying, witnessing, succession, the clock, retries, the key store. */

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync, chmodSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { encapsulate, KemKey, SignatureKey } from '../src/algorithms.js';
import { hex } from '../src/bytes.js';
import { encode } from '../src/cbor.js';
import { witness } from '../src/checkpoint.js';
import { sign1, unverifiedMembers, verify1 } from '../src/cose.js';
import { Device, KeySet, loadDevice } from '../src/device.js';
import { digest } from '../src/encoding.js';
import { EpochChain } from '../src/epochs.js';
import { integer, mapOf } from '../src/fields.js';
import { Http } from '../src/http.js';
import { answerOffer, makeOffer, takeAnswer } from '../src/rekey.js';
import { openAnswer, sealRequest } from '../src/sealed-request.js';
import { follow } from '../src/succession.js';

const device = new SignatureKey();
const server = new SignatureKey();
const sessionId = new Uint8Array(16).fill(5);

/** One rekey; what the answering side holds and what the offering side takes of it. */
function rekey(offering, answering, generation, ratchetKey, change = (answer) => answer) {
  const next = { sessionId, generation, ratchetKey };
  const ephemeral = new KemKey();
  const offer = makeOffer(offering, next, ephemeral.publicKey, 7);
  const made = answerOffer(answering, offering.publicKey, next, offer, { epoch: 7, oldestEpoch: 6 });
  const answer = change({ answer: made.answer, confirmation: made.confirmation, oldestEpoch: 6 });
  return [made.keys, takeAnswer(ephemeral, answering.publicKey, next, offer, answer).keys];
}

test('both sides reach the same keys, whoever offers, and others in each generation', () => {
  const [answered, offered] = rekey(device, server, 1, new Uint8Array(32));
  assert.deepEqual(answered, offered);
  const [answeredNext, offeredNext] = rekey(server, device, 2, offered.ratchetKey);
  assert.deepEqual(answeredNext, offeredNext);
  assert.notDeepEqual(offeredNext.chainKey, offered.chainKey);
});

test('a rekey with another confirmation is refused', () => {
  const turned = (answer) => ({ ...answer, confirmation: answer.confirmation.map((byte) => byte ^ 1) });
  assert.throws(() => rekey(device, server, 1, new Uint8Array(32), turned), { code: 'rekey-refused' });
});

test('a rekey answer from an epoch that is over is refused', () => {
  const late = (answer) => ({ ...answer, oldestEpoch: 8 });
  assert.throws(() => rekey(device, server, 1, new Uint8Array(32), late), { code: 'rekey-refused' });
});

test('an offer of another session, generation or signer is refused', () => {
  const next = { sessionId, generation: 2, ratchetKey: new Uint8Array(32) };
  const offer = makeOffer(server, next, new KemKey().publicKey, 7);
  const answer = (key, other) => answerOffer(device, key, { ...next, ...other }, offer, { epoch: 7, oldestEpoch: 6 });
  assert.throws(() => answer(server.publicKey, { sessionId: new Uint8Array(16) }), { code: 'invalid-signature' });
  assert.throws(() => answer(device.publicKey, {}), { code: 'invalid-signature' });
  assert.throws(() => answer(server.publicKey, { generation: 4 }), { code: 'rekey-refused' });
});

test('a signed structure does not verify when any of its bytes is another', () => {
  const signed = sign1(device, 'M1', mapOf({ a: 1 }), sessionId);
  const verify = (bytes, boundTo = sessionId, purpose = 'M1') =>
    verify1(device.publicKey, purpose, bytes, { a: integer(0) }, { boundTo });
  assert.deepEqual(verify(signed), { a: 1 });
  for (let at = 0; at < signed.length; at += 41) {
    const changed = Uint8Array.from(signed);
    changed[at] ^= 1;
    assert.throws(() => verify(changed), /malformed-message|invalid-signature/, `byte ${at}`);
  }
  assert.throws(() => verify(signed, new Uint8Array(16)), { code: 'invalid-signature' });
  assert.throws(() => verify(signed, sessionId, 'M2'), { code: 'invalid-signature' });
  assert.deepEqual(unverifiedMembers(signed, { a: integer(0) }), { a: 1 });
});

test('a chain moves on and never back, and erases what it leaves', () => {
  const key = new Uint8Array(32).fill(9);
  const chain = new EpochChain(key, 10);
  chain.advance(12);
  assert.deepEqual(key, new Uint8Array(32));
  const traffic = hex(chain.trafficKey());
  chain.advance(3);
  assert.equal(chain.epoch, 12);
  assert.equal(hex(chain.trafficKey()), traffic);
});

test('an answer opens for the request that it answers only', () => {
  const [trafficKey, place] = [new Uint8Array(32).fill(1), { sessionId, generation: 1, epoch: 9, sequence: 3 }];
  const request = {
    method: 'GET',
    path: '/api/global_model?federation=a',
    contentType: '',
    plaintext: new Uint8Array(),
  };
  const { headers, tag } = sealRequest(trafficKey, place, request);
  assert.equal(headers['Content-Type'], undefined);
  const answer = { status: 200, contentType: 'application/cbor', salt: '00'.repeat(16), body: new Uint8Array(17) };
  assert.throws(() => openAnswer(trafficKey, place, tag, answer), { code: 'answer-not-authentic' });
  assert.throws(() => openAnswer(trafficKey, place, tag, { ...answer, salt: '' }), { code: 'answer-not-authentic' });
});

test('a path that a proxy might rewrite is not sealed', () => {
  const request = { method: 'GET', path: '/api/a%20b', contentType: '', plaintext: new Uint8Array() };
  const place = { sessionId, generation: 0, epoch: 1, sequence: 1 };
  assert.throws(() => sealRequest(new Uint8Array(32), place, request), { code: 'malformed-message' });
});

function statement(old, fresh) {
  const succession = sign1(
    old,
    'identity succession',
    mapOf({ algorithm: 'ML-DSA-44', successor_key: fresh.publicKey, predecessor_key: old.publicKey, rotated_at: 1 }),
  );
  const accepted = mapOf({ predecessor: old.fingerprint });
  const acceptance = sign1(fresh, 'identity acceptance', accepted, digest('identity succession', succession));
  return encode(mapOf({ succession, acceptance }));
}

test('a succession leads step by step from the pinned key to the last one', () => {
  const [first, second, third] = [server, new SignatureKey(), new SignatureKey()];
  const steps = [statement(first, second), statement(second, third)];
  assert.deepEqual(follow(first.fingerprint, steps), third.publicKey);
  assert.equal(follow(first.fingerprint, []), null);
  const refused = { code: 'server-not-authenticated' };
  assert.throws(() => follow(device.fingerprint, steps), refused);
  assert.throws(() => follow(first.fingerprint, steps.toReversed()), refused);
  assert.throws(() => follow(first.fingerprint, [Uint8Array.of(0xa0)]), refused);
  assert.throws(() => follow(first.fingerprint, Array(33).fill(steps[0])), refused);
});

test('a device that has seen a checkpoint does not go on without one', () => {
  const seen = { checkpoint: { size: 1, root: new Uint8Array(32) }, logOrigin: 'qflare/a', logKey: device.publicKey };
  assert.throws(() => witness(seen, null, []), { code: 'log-inconsistent' });
  assert.equal(witness({ ...seen, checkpoint: null }, null, []), null);
});

test('a KEM key of zeros, of a wrong length or beyond the modulus is refused', () => {
  for (const key of [new Uint8Array(1568), new Uint8Array(1567).fill(1), new Uint8Array(1568).fill(255)]) {
    assert.throws(() => encapsulate(key), { code: 'invalid-key' });
  }
});

/** A server that gives these answers one after the other. */
async function answering(answers, use) {
  const seen = [];
  const listener = createServer((request, response) => {
    seen.push(request.url);
    const [status, headers, body] = answers[seen.length - 1];
    response.writeHead(status, headers).end(body);
  });
  await new Promise((resolve) => listener.listen(0, '127.0.0.1', resolve));
  try {
    await use(new Http(`http://127.0.0.1:${listener.address().port}`));
  } finally {
    listener.close();
  }
  assert.equal(seen.length, answers.length);
}

const problem = (code) => JSON.stringify({ type: `urn:qflare:problem:${code}`, detail: 'a test' });

test('what may pass is tried again, after Retry-After', async () => {
  const answers = [
    [429, { 'Retry-After': '0' }, problem('rate-limited')],
    [503, { 'Retry-After': '0' }, 'a proxy'],
    [200, {}, Buffer.from(encode(mapOf({ a: 1 })))],
  ];
  await answering(answers, async (http) => assert.deepEqual(await http.post('/api/x', new Map()), mapOf({ a: 1 })));
});

test('what the server answers once is sent once', async () => {
  await answering([[503, { 'Retry-After': '0' }, problem('service-unavailable')]], async (http) => {
    await assert.rejects(http.postOnce('/api/challenge', new Map()), { code: 'service-unavailable' });
  });
});

test('a refusal is final, with its code and detail', async () => {
  await answering([[403, {}, problem('token-used')]], async (http) => {
    await assert.rejects(http.post('/api/enroll', new Map()), {
      code: 'token-used',
      detail: 'a test',
      sealed: false,
    });
  });
});

test('an answer above its bound and a redirect are refused', async () => {
  await answering([[200, {}, Buffer.alloc(11)]], async (http) => {
    await assert.rejects(http.download('/api/blobs/x', 10), { code: 'message-too-large' });
  });
  await answering([[302, { Location: '/elsewhere' }, '']], async (http) => {
    await assert.rejects(http.exchange('GET', '/api/x'), { code: 'service-unavailable' });
  });
});

test('a device comes back from its file, which others may not read', () => {
  const home = mkdtempSync(join(tmpdir(), 'qflare-node-'));
  try {
    const state = { server: 'http://x', name: 'a', deviceId: sessionId, identityKey: server.publicKey };
    const log = {
      logOrigin: 'qflare/a',
      logKey: server.publicKey,
      checkpoint: { size: 3, root: new Uint8Array(32) },
    };
    const kept = new Device(join(home, 'device.json'), {
      ...state,
      ...log,
      current: new KeySet(),
      pending: new KeySet(),
    });
    kept.save();
    assert.equal(statSync(kept.file).mode & 0o777, 0o600);
    const old = kept.current.signature.fingerprint;
    kept.promotePending(99);
    const loaded = loadDevice(home);
    assert.deepEqual(loaded.checkpoint, log.checkpoint);
    assert.equal(loaded.pending, null);
    assert.equal(loaded.keysOf(old).validUntil, 99);
    assert.throws(() => loaded.keysOf(new Uint8Array(32)), { code: 'invalid-key' });
    assert.ok(readFileSync(kept.file, 'utf8').includes('QF1-K1024'));
    chmodSync(kept.file, 0o640);
    assert.throws(() => loadDevice(home), /0600/);
  } finally {
    rmSync(home, { recursive: true });
  }
});
