/**
 * Deterministic CBOR (docs/protocol.md, section 1), strict in both directions.
 *
 * CBOR        JavaScript
 * integer     number where it is safe, else bigint; an integral number encodes as an integer
 * float       Float, so that 1.0 and 1 stay apart
 * map         Map with keys of text or the integers 0 to 23
 * bytes, text, array, true, false, null   Uint8Array, string, Array, boolean, null
 */

import { concat, fromUtf8, utf8 } from './bytes.js';
import { decodeFloat, encodeFloat } from './cbor-float.js';
import { Refusal } from './refusal.js';

const MAXIMUM_NESTING = 16;
const MAXIMUM_ITEMS = 2 ** 20;
const SIMPLE_VALUES = new Map([
  [false, 0xf4],
  [true, 0xf5],
  [null, 0xf6],
]);
const [UNSIGNED, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE] = [0, 1, 2, 3, 4, 5, 6, 7];

/** A floating-point number of CBOR. */
export class Float {
  /** @param {number} value */
  constructor(value) {
    this.value = value;
  }
}

/** Encode a value; a TypeError or RangeError where it has no encoding here. @returns {Uint8Array} */
export function encode(value) {
  const parts = [];
  encodeItem(value, parts, 0);
  return concat(...parts);
}

/** Decode exactly one item; `malformed-message` unless the bytes are its one deterministic encoding. */
export function decode(bytes) {
  const reader = new Reader(bytes);
  const value = reader.item(0);
  if (reader.at !== bytes.length) malformed('Bytes follow the CBOR item.');
  return value;
}

function malformed(detail) {
  throw new Refusal('malformed-message', detail);
}

function header(major, argument) {
  const first = major << 5;
  if (argument < 24) return Uint8Array.of(first | Number(argument));
  const info = [8, 16, 32].findIndex((bits) => argument < 2 ** bits);
  const size = info < 0 ? 8 : 2 ** info;
  const bytes = new Uint8Array(1 + size);
  bytes[0] = first | (24 + Math.log2(size));
  let rest = BigInt(argument);
  for (let at = size; at > 0; at -= 1, rest >>= 8n) bytes[at] = Number(rest & 255n);
  return bytes;
}

function encodeItem(value, parts, depth) {
  if (depth === MAXIMUM_NESTING) throw new RangeError(`more than ${MAXIMUM_NESTING} levels of nesting`);
  if (typeof value === 'number' || typeof value === 'bigint') parts.push(encodeInteger(value));
  else if (value instanceof Float) parts.push(encodeFloat(value.value));
  else if (value instanceof Uint8Array) parts.push(header(BYTES, value.length), value);
  else if (typeof value === 'string') parts.push(encodeText(value));
  else if (Array.isArray(value)) encodeArray(value, parts, depth + 1);
  else if (value instanceof Map) encodeMap(value, parts, depth + 1);
  else if (SIMPLE_VALUES.has(value)) parts.push(Uint8Array.of(SIMPLE_VALUES.get(value)));
  else throw new TypeError(`${typeof value} has no CBOR encoding here`);
}

function encodeInteger(value) {
  const exact = typeof value === 'bigint' || Number.isSafeInteger(value);
  if (!exact) throw new TypeError('not a safe integer; use Float or bigint');
  const integer = BigInt(value);
  if (integer >= 2n ** 64n || integer < -(2n ** 64n)) throw new RangeError('beyond the integers of CBOR');
  return integer >= 0n ? header(UNSIGNED, integer) : header(NEGATIVE, -1n - integer);
}

function encodeText(value) {
  if (!value.isWellFormed()) throw new TypeError('a text with a lone surrogate');
  const bytes = utf8(value);
  return concat(header(TEXT, bytes.length), bytes);
}

function encodeArray(value, parts, depth) {
  parts.push(header(ARRAY, value.length));
  for (const item of value) encodeItem(item, parts, depth);
}

function encodeMap(value, parts, depth) {
  const entries = [...value].map(([key, item]) => [encodeKey(key), item]);
  entries.sort(([a], [b]) => Buffer.compare(a, b));
  parts.push(header(MAP, entries.length));
  for (const [key, item] of entries) {
    parts.push(key);
    encodeItem(item, parts, depth);
  }
}

function encodeKey(key) {
  if (typeof key === 'string') return encodeText(key);
  if (Number.isInteger(key) && key >= 0 && key < 24) return header(UNSIGNED, key);
  throw new TypeError('a map key is text or an integer from 0 to 23');
}

/** Reads items one after the other and refuses what is not deterministic from the headers alone. */
class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
    this.items = 0;
  }

  take(length) {
    if (length > this.bytes.length - this.at) malformed('The CBOR ends too early.');
    const taken = this.bytes.subarray(this.at, this.at + Number(length));
    this.at += Number(length);
    return taken;
  }

  /** Major type, additional information and argument (a number where safe, else a bigint). */
  header() {
    const first = this.take(1)[0];
    const [major, info] = [first >> 5, first & 31];
    if (info < 24) return [major, info, info];
    if (info > 27) malformed('An indefinite length or a reserved CBOR header.');
    const argument = this.take(2 ** (info - 24)).reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
    const shortest = [24n, 2n ** 8n, 2n ** 16n, 2n ** 32n][info - 24];
    if (major !== SIMPLE && argument < shortest) malformed('A CBOR header is not in its shortest form.');
    return [major, info, argument <= Number.MAX_SAFE_INTEGER ? Number(argument) : argument];
  }

  item(depth) {
    this.items += 1;
    if (this.items > MAXIMUM_ITEMS) malformed('Too many CBOR items.');
    if (depth === MAXIMUM_NESTING) malformed('The CBOR is nested too deep.');
    const start = this.at;
    const [major, info, argument] = this.header();
    if (major === UNSIGNED) return argument;
    if (major === NEGATIVE) return negative(argument);
    if (major === BYTES) return this.take(argument).slice();
    if (major === TEXT) return fromUtf8(this.take(argument));
    if (major === TAG) malformed('CBOR tags are not used here.');
    if (major === SIMPLE) return this.simple(info, start);
    if (argument > this.bytes.length - this.at) malformed('The CBOR ends too early.');
    return major === ARRAY ? this.array(argument, depth + 1) : this.map(argument, depth + 1);
  }

  array(length, depth) {
    return Array.from({ length }, () => this.item(depth));
  }

  map(length, depth) {
    const value = new Map();
    let before = null;
    for (let index = 0; index < length; index += 1) {
      const start = this.at;
      const key = this.key(depth);
      const encoded = this.bytes.subarray(start, this.at);
      if (before !== null && Buffer.compare(before, encoded) >= 0)
        malformed('Map keys are not in order, or repeated.');
      before = encoded;
      value.set(key, this.item(depth));
    }
    return value;
  }

  key(depth) {
    const first = this.bytes[this.at];
    if (!(first < 24) && first >> 5 !== TEXT) malformed('A map key is text or an integer from 0 to 23.');
    return this.item(depth);
  }

  simple(info, start) {
    if (info === 20 || info === 21) return info === 21;
    if (info === 22) return null;
    if (info < 25) malformed('A CBOR simple value that is not used here.');
    const encoded = this.bytes.subarray(start, this.at);
    const value = decodeFloat(encoded);
    if (Buffer.compare(encodeFloat(value), encoded) !== 0) malformed('A float is not in its shortest form.');
    return new Float(value);
  }
}

function negative(argument) {
  const value = -1n - BigInt(argument);
  return value >= Number.MIN_SAFE_INTEGER ? Number(value) : value;
}
