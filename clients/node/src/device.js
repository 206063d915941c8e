/**
 * What a device keeps: one JSON file of mode 0600, replaced atomically.
 *
 * The file is NOT encrypted: whoever reads it has the device's private keys. See README.md.
 */

import {
  closeSync,
  fchmodSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';

import { KemKey, SignatureKey, SUITE } from './algorithms.js';
import { equal, fromBase64, toBase64 } from './bytes.js';
import { Refusal } from './refusal.js';

/** A registered KEM key and the signature key beside it. */
export class KeySet {
  constructor(kem = new KemKey(), signature = new SignatureKey(), validUntil = null) {
    this.kem = kem;
    this.signature = signature;
    this.validUntil = validUntil;
  }

  toJSON() {
    return { kem: toBase64(this.kem.seed), signature: toBase64(this.signature.seed), validUntil: this.validUntil };
  }

  static fromJSON({ kem, signature, validUntil }) {
    return new KeySet(new KemKey(fromBase64(kem)), new SignatureKey(fromBase64(signature)), validUntil);
  }
}

/** An enrolled device: its identity, keys, pins and what it has witnessed. */
export class Device {
  /** @param {string} file @param {Record<string, any>} state */
  constructor(file, state) {
    this.file = file;
    /** @type {string} */ this.server = state.server;
    /** @type {string} */ this.name = state.name;
    /** @type {Uint8Array} */ this.deviceId = state.deviceId;
    /** @type {Uint8Array} */ this.identityKey = state.identityKey;
    /** @type {string} */ this.logOrigin = state.logOrigin;
    /** @type {Uint8Array} */ this.logKey = state.logKey;
    /** @type {import('./checkpoint.js').Checkpoint | null} */ this.checkpoint = state.checkpoint ?? null;
    /** @type {KeySet} */ this.current = state.current;
    /** New keys whose registration has begun. @type {KeySet | null} */ this.pending = state.pending ?? null;
    /** Earlier keys within their overlap. @type {KeySet[]} */ this.earlier = state.earlier ?? [];
    /** @type {import('./evidence.js').Pins | null} */ this.pins = state.pins ?? null;
    /** Highest model version and the base models trained from, by federation. */ this.federations =
      state.federations ?? {};
  }

  /** Write the file: a temporary one, flushed, then renamed, and its folder flushed. */
  save() {
    mkdirSync(dirname(this.file), { recursive: true, mode: 0o700 });
    const { file, ...state } = this;
    replaceFile(file, JSON.stringify({ suite: SUITE.name, ...state }, tagged, 1));
  }

  /** The new keys have become the current ones. @param {number} validUntil of the old ones, Unix seconds */
  promotePending(validUntil) {
    this.current.validUntil = validUntil;
    this.earlier.push(this.current);
    [this.current, this.pending] = [this.pending, null];
    this.save();
  }

  /** The keys with that signature key, current or earlier; `invalid-key` where there are none. */
  keysOf(fingerprint) {
    const found = [this.current, ...this.earlier].find((keys) => equal(keys.signature.fingerprint, fingerprint));
    if (found === undefined)
      throw new Refusal('invalid-key', 'The round names a signature key that this device does not have.');
    return found;
  }
}

// JSON has no bytes; toJSON of a Buffer would write a list of numbers, and a Uint8Array a map.
const tagged = (_, value) => (value instanceof Uint8Array ? { base64: toBase64(value) } : value);

const untagged = (_, value) =>
  value !== null && typeof value === 'object' && typeof value.base64 === 'string' ? fromBase64(value.base64) : value;

/** @param {string} home @returns {string} */
export const deviceFile = (home) => join(home, 'device.json');

/** Read the device of a folder; an Error where there is none or others may read it. */
export function loadDevice(home) {
  const file = deviceFile(home);
  if (statSync(file).mode & 0o077)
    throw new Error(`${file} may be read by others than its owner; it has to have mode 0600`);
  const state = JSON.parse(readFileSync(file, 'utf8'), untagged);
  if (state.suite !== SUITE.name) throw new Error(`${file} is of suite ${state.suite}`);
  state.current = KeySet.fromJSON(state.current);
  state.pending = state.pending && KeySet.fromJSON(state.pending);
  state.earlier = state.earlier.map(KeySet.fromJSON);
  return new Device(file, state);
}

/** Replace a file of mode 0600 so that a crash leaves the old or the new one. @param {Uint8Array|string} content */
export function replaceFile(file, content) {
  const temporary = `${file}.new`;
  const descriptor = openSync(temporary, 'w', 0o600);
  try {
    fchmodSync(descriptor, 0o600);
    writeFileSync(descriptor, content);
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  renameSync(temporary, file);
  flushFolder(dirname(file));
}

function flushFolder(folder) {
  const descriptor = openSync(folder, 'r');
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
