/** Sealed requests and their answers (docs/protocol.md, section 8). */

import { randomBytes } from 'node:crypto';

import { open, seal, TAG_BYTES } from './aead.js';
import { fromHex, hex, u8 } from './bytes.js';
import { expand, frame, label } from './encoding.js';
import { demand } from './refusal.js';

/** Media type of sealed bodies. */
export const SEALED = 'application/vnd.qflare.sealed';

/**
 * Which session, generation, epoch and sequence number a request has.
 * @typedef {{sessionId: Uint8Array, generation: number, epoch: number, sequence: number}} Place
 */

const numberFields = ({ sessionId, generation, epoch, sequence }, salt) => [
  sessionId,
  u8(generation),
  u8(epoch),
  u8(sequence),
  salt,
];

function keyAndNonce(trafficKey, purpose, fields) {
  const material = expand(trafficKey, purpose, fields, 44);
  return [material.slice(0, 32), material.slice(32)];
}

/**
 * Seal a request.
 * @param {Uint8Array} trafficKey @param {Place} place
 * @param {{method: string, path: string, contentType: string, plaintext: Uint8Array}} request
 * @param {Uint8Array} [salt] 16 fresh random bytes
 * @returns {{headers: Record<string, string>, body: Uint8Array, tag: Uint8Array}}
 */
export function sealRequest(
  trafficKey,
  place,
  { method, path, contentType, plaintext },
  salt = new Uint8Array(randomBytes(16)),
) {
  demand(/^[A-Za-z0-9\-._~/?=&]+$/.test(path), 'malformed-message', 'A path of other than unreserved characters.');
  const fields = numberFields(place, salt);
  const [key, nonce] = keyAndNonce(trafficKey, 'request', fields);
  const aad = frame(label('request'), ...fields, method, path, contentType, u8(plaintext.length));
  const sealed = seal(key, nonce, plaintext, aad);
  const [body, tag] = [sealed.slice(0, -TAG_BYTES), sealed.slice(-TAG_BYTES)];
  const headers = { Authorization: authorization(place, salt, tag) };
  if (body.length > 0) headers['Content-Type'] = SEALED;
  if (contentType !== '') headers['QFLARE-Content-Type'] = contentType;
  return { headers, body, tag };
}

function authorization({ sessionId, generation, epoch, sequence }, salt, tag) {
  const where = `session=${hex(sessionId)}, generation=${generation}, epoch=${epoch}, sequence=${sequence}`;
  return `QFLARE1 ${where}, salt=${hex(salt)}, tag=${hex(tag)}`;
}

/**
 * Open the answer to a request; `answer-not-authentic` unless it is the server's.
 * @param {Uint8Array} trafficKey that of the request @param {Place} place that of the request
 * @param {Uint8Array} requestTag
 * @param {{status: number, contentType: string, salt: string, body: Uint8Array}} answer its status, the headers
 *   QFLARE-Content-Type and QFLARE-Salt, and its body
 */
export function openAnswer(trafficKey, place, requestTag, { status, contentType, salt, body }) {
  const whole = salt.length === 32 && body.length >= TAG_BYTES;
  demand(whole, 'answer-not-authentic', 'A sealed answer is too short or has no salt.');
  const fields = numberFields(place, fromHex(salt));
  const [key, nonce] = keyAndNonce(trafficKey, 'answer', fields);
  const length = u8(body.length - TAG_BYTES);
  const aad = frame(
    label('answer'),
    ...fields,
    requestTag,
    Uint8Array.of(status >> 8, status & 255),
    contentType,
    length,
  );
  return open(key, nonce, body, aad, 'answer-not-authentic');
}
