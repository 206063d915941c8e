/** Signed structures: untagged COSE_Sign1 in deterministic CBOR (docs/protocol.md, section 3). */

import { COSE_ALGORITHM, SUITE, verifySignature } from './algorithms.js';
import { equal } from './bytes.js';
import { decode, encode } from './cbor.js';
import { fingerprint, frame, label } from './encoding.js';
import { decodeMembers } from './fields.js';
import { demand } from './refusal.js';

const EMPTY = new Uint8Array();
const MAXIMUM_BYTES = 2 ** 20;

const toBeSigned = (purpose, boundTo, header, payload) =>
  encode(['Signature1', header, frame(label(purpose), boundTo), payload]);

const protectedHeader = (keyFingerprint) =>
  encode(
    new Map([
      [1, COSE_ALGORITHM],
      [4, keyFingerprint],
    ]),
  );

/**
 * Sign the CBOR encoding of a map.
 * @param {import('./algorithms.js').SignatureKey} key @param {string} purpose @param {Map<string, unknown>} payload
 * @param {Uint8Array} [boundTo] @returns {Uint8Array}
 */
export function sign1(key, purpose, payload, boundTo = EMPTY) {
  const header = protectedHeader(key.fingerprint);
  const encoded = encode(payload);
  return encode([header, new Map(), encoded, key.sign(toBeSigned(purpose, boundTo, header, encoded))]);
}

/**
 * Verify a signed structure with the ML-DSA-44 key that has to have signed, and return its checked members.
 * `malformed-message` for its form, `invalid-signature` where key or signature are others.
 * @param {Uint8Array} publicKey @param {string} purpose @param {Uint8Array} signed
 * @param {Record<string, import('./fields.js').Field>} expected
 * @param {{boundTo?: Uint8Array, maximumBytes?: number}} [options]
 */
export function verify1(
  publicKey,
  purpose,
  signed,
  expected,
  { boundTo = EMPTY, maximumBytes = MAXIMUM_BYTES, optional = {} } = {},
) {
  const { header, payload, signature } = split(signed, maximumBytes);
  checkHeader(header, fingerprint(SUITE.signature, publicKey));
  verifySignature(publicKey, toBeSigned(purpose, boundTo, header, payload), signature);
  return decodeMembers(payload, expected, optional);
}

/** The members of a payload whose signer is named by the payload itself: verify before believing them. */
export const unverifiedMembers = (signed, expected) => decodeMembers(split(signed, MAXIMUM_BYTES).payload, expected);

function split(signed, maximumBytes) {
  demand(signed.length <= maximumBytes, 'malformed-message', 'A signed structure is too large.');
  const parts = decode(signed);
  demand(Array.isArray(parts) && parts.length === 4, 'malformed-message', 'Not a COSE_Sign1.');
  const [header, unprotected, payload, signature] = parts;
  demand(
    unprotected instanceof Map && unprotected.size === 0,
    'malformed-message',
    'The unprotected header is not empty.',
  );
  const byteStrings = [header, payload, signature].every((part) => part instanceof Uint8Array);
  demand(byteStrings, 'malformed-message', 'A part of the COSE_Sign1 is not bytes.');
  return { header, payload, signature };
}

function checkHeader(header, keyFingerprint) {
  const map = decode(header);
  demand(
    map instanceof Map && map.size === 2 && map.has(1) && map.has(4),
    'malformed-message',
    'Not the protected header.',
  );
  const [algorithm, signer] = [map.get(1), map.get(4)];
  demand(signer instanceof Uint8Array, 'malformed-message', 'The key fingerprint is not bytes.');
  demand(
    algorithm === COSE_ALGORITHM && equal(signer, keyFingerprint),
    'invalid-signature',
    'Another key has signed.',
  );
}
