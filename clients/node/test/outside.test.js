/** Against what nobody of this project wrote: liboqs (as WebAssembly), FrodoKEM's known answers, Merkle proofs. */

import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { createFrodoKEM640AES, createMLKEM1024 } from '@openforge-sh/liboqs/kem';
import { createMLDSA44 } from '@openforge-sh/liboqs/sig';

import { encapsulate, KEM_CIPHERTEXT_BYTES, KemKey, SignatureKey, verifySignature } from '../src/algorithms.js';
import { fromBase64, fromHex, hex } from '../src/bytes.js';
import { verifyConsistency } from '../src/merkle.js';

const VECTORS = process.env.QFLARE_VECTORS ?? fileURLToPath(new URL('../../../../shared/vectors/', import.meta.url));
const noVectors = (folder) => !existsSync(join(VECTORS, folder)) && `no ${folder} below ${VECTORS}`;

/** What the protocol's salted FrodoKEM-640-AES has; docs/protocol.md, section 2. */
const SALTED_CIPHERTEXT_BYTES = 9752;

test('ML-KEM-1024 agrees with liboqs in both directions', async () => {
  const other = await createMLKEM1024();
  const own = new KemKey();
  const sent = other.encapsulate(own.publicKey);
  assert.equal(hex(own.decapsulate(sent.ciphertext)), hex(sent.sharedSecret));
  const pair = other.generateKeyPair();
  const { ciphertext, secret } = encapsulate(pair.publicKey);
  assert.equal(hex(other.decapsulate(ciphertext, pair.secretKey)), hex(secret));
  other.destroy();
});

test('ML-DSA-44 agrees with liboqs in both directions', async () => {
  const other = await createMLDSA44();
  const [own, message] = [new SignatureKey(), Uint8Array.of(1, 2, 3)];
  assert.equal(other.verify(message, own.sign(message), own.publicKey), true);
  const pair = other.generateKeyPair();
  verifySignature(pair.publicKey, message, other.sign(message, pair.secretKey));
  other.destroy();
});

test("liboqs' FrodoKEM-640-AES is the variant without salt, whose ciphertexts nobody takes for the protocol's", async () => {
  const frodo = await createFrodoKEM640AES();
  const { publicKey, secretKey } = frodo.generateKeyPair();
  const { ciphertext, sharedSecret } = frodo.encapsulate(publicKey);
  assert.equal(ciphertext.length, 9720);
  assert.notEqual(ciphertext.length, SALTED_CIPHERTEXT_BYTES);
  assert.notEqual(ciphertext.length, KEM_CIPHERTEXT_BYTES);
  assert.equal(hex(frodo.decapsulate(ciphertext, secretKey)), hex(sharedSecret));
  assert.throws(() => frodo.decapsulate(new Uint8Array(SALTED_CIPHERTEXT_BYTES), secretKey));
  assert.throws(() => new KemKey().decapsulate(ciphertext), { code: 'malformed-message' });
  frodo.destroy();
});

const records = (file) =>
  readFileSync(join(VECTORS, 'frodo', file), 'utf8')
    .split(/^count = /m)
    .slice(1)
    .map((record) =>
      Object.fromEntries(
        [...record.matchAll(/^(\w+) = ([0-9A-F]+)$/gm)].map(([, name, value]) => [
          name,
          fromHex(value.toLowerCase()),
        ]),
      ),
    );

test(
  'the known answers of eFrodoKEM-640-AES open in liboqs, those with salt do not',
  { skip: noVectors('frodo') },
  async () => {
    const [unsalted, salted] = ['eFrodo', 'FrodoKEM'].map((begin) =>
      records(readdirSync(join(VECTORS, 'frodo')).find((file) => file.startsWith(begin))),
    );
    const frodo = await createFrodoKEM640AES();
    assert.equal(unsalted.length, 5);
    for (const { sk, ct, ss } of unsalted) assert.equal(hex(frodo.decapsulate(ct, sk)), hex(ss));
    for (const { sk, ct, ss } of salted) {
      assert.equal(ct.length, SALTED_CIPHERTEXT_BYTES);
      assert.throws(() => frodo.decapsulate(ct, sk));
      assert.notEqual(hex(frodo.decapsulate(ct.slice(0, 9720), sk)), hex(ss));
    }
    frodo.destroy();
  },
);

test('consistency proofs of transparency-dev hold or fail as they should', { skip: noVectors('merkle') }, () => {
  const files = readdirSync(join(VECTORS, 'merkle/consistency'), { recursive: true }).filter((file) =>
    /\.json$/.test(file),
  );
  const verdicts = files.map((file) => {
    const { size1, size2, root1, root2, proof, wantErr } = JSON.parse(
      readFileSync(join(VECTORS, 'merkle/consistency', file), 'utf8'),
    );
    return [file, size1, wantErr, holds(size1, decoded(root1), size2, decoded(root2), (proof ?? []).map(decoded))];
  });
  assert.ok(verdicts.length > 50 && verdicts.some(([, , , held]) => held));
  // From size 0 everything is refused here: who has seen an empty log has seen no checkpoint.
  for (const [file, size1, wantErr, held] of verdicts) assert.equal(held, !wantErr && size1 > 0, file);
});

const decoded = (text) => (text === null ? new Uint8Array() : fromBase64(text));

function holds(...proof) {
  try {
    verifyConsistency(...proof);
    return true;
  } catch (error) {
    assert.equal(error.code, 'proof-refused');
    return false;
  }
}
