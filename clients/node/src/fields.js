/** The members of a received map, each with its type and bounds; anything else is `malformed-message`. */

import { decode, Float } from './cbor.js';
import { demand } from './refusal.js';

const CODE = 'malformed-message';
// What Unicode calls other (control, format, surrogate, private, unassigned) or a separator, except the space.
const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u;

/** Bytes of `least` to `most`, or of exactly `least`. */
export const bytes =
  (least, most = least) =>
  (value, name) => {
    demand(value instanceof Uint8Array, CODE, `${name} is not bytes.`);
    demand(value.length >= least && value.length <= most, CODE, `${name} has ${value.length} bytes.`);
    return value;
  };

/** Printable text of `least` to `most` characters. */
export const text = (least, most) => (value, name) => {
  demand(typeof value === 'string' && !UNPRINTABLE.test(value), CODE, `${name} is not printable text.`);
  const length = [...value].length;
  demand(length >= least && length <= most, CODE, `${name} has ${length} characters.`);
  return value;
};

/** An integer of `least` to `most`. */
export const integer =
  (least, most = Number.MAX_SAFE_INTEGER) =>
  (value, name) => {
    demand(Number.isSafeInteger(value) && value >= least && value <= most, CODE, `${name} is out of its range.`);
    return value;
  };

/** A floating-point number of `least` to `most`. */
export const float = (least, most) => (value, name) => {
  demand(value instanceof Float && value.value >= least && value.value <= most, CODE, `${name} is out of its range.`);
  return value;
};

/** @type {Field} */
export const boolean = (value, name) => {
  demand(typeof value === 'boolean', CODE, `${name} is not true or false.`);
  return value;
};

/** Null, or what the field allows. */
export const nullOr = (field) => (value, name) => (value === null ? null : field(value, name));

/** A list of `least` to `most` of the field. */
export const list = (field, least, most) => (value, name) => {
  demand(Array.isArray(value) && value.length >= least && value.length <= most, CODE, `${name} is not such a list.`);
  return value.map((item) => field(item, `an item of ${name}`));
};

/** A map of at most `most` members whose content is somebody else's to check. */
export const anyMap = (most) => (value, name) => {
  demand(value instanceof Map && value.size <= most, CODE, `${name} is not such a map.`);
  return value;
};

/** Exactly this value. */
export const exactly = (expected) => (value, name) => {
  demand(value === expected, CODE, `${name} is not ${expected}.`);
  return value;
};

/**
 * Check a decoded map against its members, none missing and none further; `optional` ones may be missing.
 * @typedef {(value: unknown, name: string) => any} Field
 * @param {unknown} map @param {Record<string, Field>} members @param {Record<string, Field>} optional
 * @returns {Record<string, any>}
 */
export function members(map, members, optional = {}) {
  demand(map instanceof Map, CODE, 'Not a map.');
  const named = Object.entries(optional).filter(([name]) => map.has(name));
  if (named.length > 0) members = { ...members, ...Object.fromEntries(named) };
  const names = Object.keys(members);
  demand(
    map.size === names.length && names.every((name) => map.has(name)),
    CODE,
    `Not the members ${names.join(', ')}.`,
  );
  return Object.fromEntries(names.map((name) => [name, members[name](map.get(name), name)]));
}

/** Decode CBOR and check its members. */
export const decodeMembers = (encoded, expected, optional = {}) => members(decode(encoded), expected, optional);

/** A Map of an object's members, for encoding. */
export const mapOf = (object) => new Map(Object.entries(object));
