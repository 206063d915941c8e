/** Labels, frames, digests and key derivation (docs/protocol.md, section 1). */

import { blake3 } from '@noble/hashes/blake3.js';
import { hmac } from '@noble/hashes/hmac.js';
import { sha3_512 } from '@noble/hashes/sha3.js';

import { concat, u8, utf8 } from './bytes.js';

const asBytes = (field) => (typeof field === 'string' ? utf8(field) : field);

/** The ASCII bytes of `QFLARE/1 ` and the purpose. */
export const label = (purpose) => utf8(`QFLARE/1 ${purpose}`);

/** Every field behind its length as 8 bytes. @param {...(Uint8Array|string)} fields */
export function frame(...fields) {
  return concat(...fields.map(asBytes).flatMap((field) => [u8(field.length), field]));
}

/** SHA3-512 of the framed label and fields, 64 bytes. */
export const digest = (purpose, ...fields) => sha3_512(frame(label(purpose), ...fields));

/** Unkeyed BLAKE3, 32 bytes: the name of a model or a sealed update. */
export const bulkDigest = (bytes) => blake3(bytes);

/** HMAC-SHA3-512 of the framed secrets under the salt, 64 bytes. */
export const extract = (salt, ...secrets) => hmac(sha3_512, salt, frame(...secrets));

/** HKDF-Expand under the framed label and context. @param {Array<Uint8Array|string>} [context] */
export function expand(key, purpose, context = [], length = 32) {
  // Written out, because the library's Expand refuses keys below 64 bytes and most keys here have 32.
  const info = frame(label(purpose), ...context);
  const blocks = [new Uint8Array()];
  for (let count = 1; (count - 1) * 64 < length; count += 1) {
    blocks.push(hmac(sha3_512, key, concat(blocks.at(-1), info, Uint8Array.of(count))));
  }
  return concat(...blocks).slice(0, length);
}

/** HMAC-SHA3-512 of the framed label and fields, 64 bytes. */
export const mac = (key, purpose, ...fields) => hmac(sha3_512, key, frame(label(purpose), ...fields));

/** The 32 bytes that name a public key of an algorithm of section 2. */
export const fingerprint = (algorithm, key) => digest('key fingerprint', algorithm, key).slice(0, 32);
