/** The chunked stream of bulk data (docs/protocol.md, section 11.1). */

import { hkdf } from '@noble/hashes/hkdf.js';
import { sha3_512 } from '@noble/hashes/sha3.js';
import { randomBytes } from 'node:crypto';

import { open, seal, TAG_BYTES } from './aead.js';
import { concat, equal, isZero, utf8 } from './bytes.js';
import { frame, label } from './encoding.js';
import { demand } from './refusal.js';

const MAGIC = utf8('QF1S');
const HEADER_BYTES = 43;
const CHUNK_BYTES = 2 ** 16;

function derive(key, prefix, context) {
  demand(key.length === 32 && !isZero(key), 'invalid-key', 'The key of a chunked stream has 32 bytes, not all zero.');
  const material = hkdf(sha3_512, key, undefined, frame(label('chunked stream'), prefix, context), 64);
  return { key: material.slice(0, 32), commitment: material.slice(32) };
}

function nonceOf(prefix, index, isLast) {
  const counter = new Uint8Array(5);
  new DataView(counter.buffer).setUint32(0, index);
  counter[4] = isLast ? 1 : 0;
  return concat(prefix, counter);
}

/** Encrypt under a key of 32 bytes that is used for this stream only. @param {Uint8Array|string} context */
export function sealStream(contentKey, context, plaintext, prefix = new Uint8Array(randomBytes(7))) {
  const { key, commitment } = derive(contentKey, prefix, context);
  const header = concat(MAGIC, prefix, commitment);
  const last = Math.max(Math.ceil(plaintext.length / CHUNK_BYTES) - 1, 0);
  const chunks = [];
  for (let index = 0; index <= last; index += 1) {
    const chunk = plaintext.subarray(index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES);
    chunks.push(seal(key, nonceOf(prefix, index, index === last), chunk, header));
  }
  return concat(header, ...chunks);
}

/** Open a whole stream; `decryption-failed` unless commitment and every chunk hold. */
export function openStream(contentKey, context, stream) {
  const header = stream.slice(0, HEADER_BYTES);
  const whole = stream.length >= HEADER_BYTES + TAG_BYTES && equal(header.slice(0, 4), MAGIC);
  demand(whole, 'decryption-failed', 'Not a chunked stream.');
  const prefix = header.slice(4, 11);
  const { key, commitment } = derive(contentKey, prefix, context);
  demand(equal(header.slice(11), commitment), 'decryption-failed', 'A chunked stream is under another key.');
  const sealedChunk = CHUNK_BYTES + TAG_BYTES;
  const last = Math.ceil((stream.length - HEADER_BYTES) / sealedChunk) - 1;
  const chunks = [];
  for (let index = 0; index <= last; index += 1) {
    const begin = HEADER_BYTES + index * sealedChunk;
    chunks.push(
      open(key, nonceOf(prefix, index, index === last), stream.subarray(begin, begin + sealedChunk), header),
    );
  }
  return concat(...chunks);
}
