/** The worked examples of docs/protocol.md, appendix C, read out of the document. */

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { concat, hex, u8 } from '../src/bytes.js';
import { encode, Float } from '../src/cbor.js';
import { digest, expand, fingerprint, frame } from '../src/encoding.js';
import { EpochChain } from '../src/epochs.js';
import { sealRequest } from '../src/sealed-request.js';

const document = fileURLToPath(new URL('../../../docs/protocol.md', import.meta.url));
const skip = !existsSync(document) && 'docs/protocol.md is not beside this folder';
const examples = skip ? {} : read(readFileSync(document, 'utf8'));

function read(text) {
  const appendix = text.slice(text.indexOf('## Appendix C'));
  return Object.fromEntries(
    [...appendix.matchAll(/^(\S[^=\n]*?) += (.+)$/gm)].map(([, name, value]) => [name, value]),
  );
}

const counting = (length) => Uint8Array.from({ length }, (_, index) => index % 256);

test('frame and digest', { skip }, () => {
  assert.equal(hex(frame('ab', '')), examples['frame("ab", "")']);
  assert.equal(hex(digest('example', 'ab', '')), examples['digest("example", "ab", "")']);
});

test('deterministic CBOR', { skip }, () => {
  const map = new Map([
    ['b', new Float(1)],
    ['aa', Uint8Array.of(1)],
    ['a', [true, null, -1]],
  ]);
  assert.equal(hex(encode(map)), examples.cbor);
});

test('key fingerprint', { skip }, () => {
  assert.equal(hex(fingerprint('ML-DSA-44', concat(counting(1280), new Uint8Array(32)))), examples.fingerprint);
});

test('epoch keys', { skip }, () => {
  const chain = new EpochChain(counting(32), 5666666);
  assert.equal(hex(chain.trafficKey()), examples['traffic_key(5666666)']);
  chain.advance(5666667);
  assert.equal(hex(chain.key), examples['chain_key(5666667)']);
});

test('sealed request', { skip }, () => {
  const traffic = new EpochChain(counting(32), 5666666).trafficKey();
  const place = { sessionId: counting(16), generation: 0, epoch: 5666666, sequence: 1 };
  const request = {
    method: 'POST',
    path: '/api/work',
    contentType: 'application/cbor',
    plaintext: encode(new Map()),
  };
  const { headers, body } = sealRequest(traffic, place, request, new Uint8Array(16));
  assert.equal(headers.Authorization, examples.header);
  assert.equal(hex(body), examples.body);
  const number = [counting(16), u8(0), u8(5666666), u8(1), new Uint8Array(16)];
  assert.equal(hex(expand(traffic, 'request', number, 44)), examples.key + examples.nonce);
});
