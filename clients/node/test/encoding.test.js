/** CBOR beyond the vectors, tokens, safetensors. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { concat, fromBase64, fromHex, hex, toBase64, u8, utf8 } from '../src/bytes.js';
import { decode, encode, Float } from '../src/cbor.js';
import { expand, frame, label } from '../src/encoding.js';
import { bytes, members, text } from '../src/fields.js';
import { decodeTensors, encodeTensors } from '../src/safetensors.js';
import { parseToken } from '../src/token.js';
import { hkdf } from '@noble/hashes/hkdf.js';
import { extract as hkdfExtract } from '@noble/hashes/hkdf.js';
import { sha3_512 } from '@noble/hashes/sha3.js';

const malformed = { code: 'malformed-message' };

test('an integer keeps its value at both ends of its range', () => {
  for (const value of [2n ** 64n - 1n, -(2n ** 64n), Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER, 2n ** 53n]) {
    assert.equal(BigInt(decode(encode(value))), BigInt(value));
  }
  assert.throws(() => encode(2n ** 64n), RangeError);
  assert.throws(() => encode(-(2n ** 64n) - 1n), RangeError);
  assert.throws(() => encode(2 ** 53), TypeError);
});

test('what JavaScript has and the protocol has not is not encoded', () => {
  for (const value of [undefined, 1.5, {}, new Date(0), '\ud800', new Map([[24, 1]]), new Map([[-1, 1]])]) {
    assert.throws(() => encode(value), TypeError);
  }
});

test('every half-precision number comes back as itself', () => {
  for (let bits = 0; bits < 65536; bits += 1) {
    const item = Uint8Array.of(0xf9, bits >> 8, bits & 255);
    const isOtherNaN = (bits & 0x7c00) === 0x7c00 && (bits & 0x3ff) !== 0 && bits !== 0x7e00;
    if (isOtherNaN) assert.throws(() => decode(item), malformed);
    else assert.deepEqual(encode(decode(item)), item);
  }
});

test('a float that fits a shorter form is refused in the longer one', () => {
  for (const value of [1, -0, 65504, 2 ** -24, 2 ** -14, Infinity, Math.fround(0.1)]) {
    const double = new Uint8Array(9).fill(0xfb, 0, 1);
    new DataView(double.buffer).setFloat64(1, value);
    assert.throws(() => decode(double), malformed);
    assert.ok(Object.is(decode(encode(new Float(value))).value, value));
  }
});

test('a map is refused with a member more or less, or with text that cannot be printed', () => {
  const expected = { name: text(1, 3) };
  assert.deepEqual(members(new Map([['name', 'a b']]), expected), { name: 'a b' });
  assert.deepEqual(members(new Map([['name', '\u{1F600}ab']]), expected), { name: '\u{1F600}ab' });
  const wrong = ['', 'abcd', 'a\u00a0', 'a\u00ad', '\u2028', 'a\n', 7].map((name) => [['name', name]]);
  for (const entries of [[], [...wrong[0], ['more', 1]], ...wrong]) {
    assert.throws(() => members(new Map(entries), expected), malformed);
  }
});

test('expand is RFC 5869 where RFC 5869 allows the key', () => {
  const key = hkdfExtract(sha3_512, Uint8Array.of(1), undefined);
  const info = frame(label('chain'), 'context');
  const whole = hkdf(sha3_512, Uint8Array.of(1), undefined, info, 150);
  assert.equal(hex(expand(key, 'chain', ['context'], 150)), hex(whole));
});

test('base64 and hexadecimal are taken in their one form only', () => {
  assert.deepEqual(fromBase64('AQI='), Uint8Array.of(1, 2));
  for (const wrong of ['AQI', 'AQJ=', 'AQ I=', 'AQI=\n', '_-8=']) assert.throws(() => fromBase64(wrong), malformed);
  for (const wrong of ['0', 'AA', '0x', ' 00']) assert.throws(() => fromHex(wrong), malformed);
});

test('a token is taken apart, and refused in any other form', () => {
  const part = toBase64(new Uint8Array(32).fill(7), 'base64url');
  assert.deepEqual(parseToken(`QF1.${part}.${part}`).secret, new Uint8Array(32).fill(7));
  const unusedBits = `${part.slice(0, -1)}d`;
  for (const wrong of [`QF2.${part}.${part}`, `QF1.${part}`, `QF1.${part}.${part} `, `QF1.${part}.${unusedBits}`]) {
    assert.throws(() => parseToken(wrong), malformed);
  }
});

const model = [
  { name: '10', shape: [2, 1], values: Float32Array.of(1, -2) },
  { name: '9 "é"', shape: [], values: Float32Array.of(0.5) },
];

test('a model comes back with its names, order and values', () => {
  const container = encodeTensors(model);
  assert.equal(Number(new DataView(container.buffer).getBigUint64(0, true)) % 8, 0);
  assert.deepEqual(decodeTensors(container), model);
});

test('a number that is not finite is not written', () => {
  assert.throws(() => encodeTensors([{ name: 'a', shape: [1], values: Float32Array.of(NaN) }]), {
    code: 'invalid-tensors',
  });
});

const container = (header, data) => {
  const length = u8(utf8(header).length).reverse();
  return concat(length, utf8(header), new Uint8Array(data));
};
const entry = (from, to, rest = '"shape":[1]') => `{"dtype":"F32",${rest},"data_offsets":[${from},${to}]}`;

for (const [what, header, data] of [
  ['a hole', `{"a":${entry(0, 4)},"b":${entry(8, 12)}}`, 12],
  ['an overlap', `{"a":${entry(0, 4)},"b":${entry(0, 4)}}`, 4],
  ['data that follow', `{"a":${entry(0, 4)}}`, 8],
  ['a name twice', `{"a":${entry(0, 4)},"a":${entry(4, 8)}}`, 8],
  ['a member twice', `{"a":${entry(0, 4, '"shape":[1],"shape":[1]')}}`, 4],
  ['another type', `{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}`, 4],
  ['a shape that does not fit', `{"a":${entry(0, 4, '"shape":[2]')}}`, 4],
  ['a negative length', `{"a":${entry(0, 4, '"shape":[-1]')}}`, 4],
  ['no tensor', '{}', 0],
  ['metadata that are no texts', `{"__metadata__":{"a":1},"a":${entry(0, 4)}}`, 4],
  ['space before the brace', ` {"a":${entry(0, 4)}}`, 4],
  ['a trailing comma', `{"a":${entry(0, 4)},}`, 4],
  ['no object', '[1]', 0],
]) {
  test(`a model with ${what} is refused`, () => {
    assert.throws(() => decodeTensors(container(header, data)), { code: 'invalid-tensors' });
  });
}

test('a model of which bytes were cut off is refused', () => {
  const whole = encodeTensors(model);
  for (const length of [0, 7, 9, 20, whole.length - 1]) {
    assert.throws(() => decodeTensors(whole.slice(0, length)), { code: 'invalid-tensors' });
  }
});

test('bytes of a wrong length are refused', () => {
  assert.throws(() => bytes(16)(new Uint8Array(15), 'id'), malformed);
  assert.throws(() => bytes(1, 2)('a', 'id'), malformed);
});
