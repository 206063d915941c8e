/** Byte strings: hexadecimal, base64url, integers of 8 bytes, and comparing in constant time. */

import { timingSafeEqual } from 'node:crypto';

import { Refusal } from './refusal.js';

const UTF8 = new TextEncoder();
const STRICT_UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** @param {...Uint8Array} parts @returns {Uint8Array} */
export function concat(...parts) {
  const all = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** The UTF-8 bytes of a text. */
export const utf8 = (text) => UTF8.encode(text);

/** The text of UTF-8 bytes; `malformed-message` unless they are UTF-8. */
export function fromUtf8(bytes) {
  try {
    return STRICT_UTF8.decode(bytes);
  } catch {
    throw new Refusal('malformed-message', 'A text is not UTF-8.');
  }
}

/** Lower-case hexadecimal of bytes. */
export const hex = (bytes) => Buffer.from(bytes).toString('hex');

/** Bytes of hexadecimal; `malformed-message` unless it is lower-case and of whole bytes. */
export function fromHex(text) {
  if (!/^(?:[0-9a-f]{2})*$/.test(text)) throw new Refusal('malformed-message', 'Not lower-case hexadecimal.');
  return new Uint8Array(Buffer.from(text, 'hex'));
}

/** Base64 with padding, or base64url without, in its one canonical form; `malformed-message` otherwise. */
export function fromBase64(text, alphabet = 'base64') {
  const bytes = new Uint8Array(Buffer.from(text, alphabet));
  if (toBase64(bytes, alphabet) !== text) throw new Refusal('malformed-message', `Not canonical ${alphabet}.`);
  return bytes;
}

/** @param {Uint8Array} bytes @param {'base64'|'base64url'} [alphabet] */
export const toBase64 = (bytes, alphabet = 'base64') => Buffer.from(bytes).toString(alphabet);

/** An unsigned integer as 8 bytes, big-endian. */
export function u8(value) {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value));
  return bytes;
}

/** Whether two byte strings are equal, in time that depends on their lengths only. */
export const equal = (a, b) => a.length === b.length && timingSafeEqual(a, b);

/** Whether every byte is zero. */
export const isZero = (bytes) => bytes.every((byte) => byte === 0);
