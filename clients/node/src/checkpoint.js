/** Checkpoints: C2SP signed notes with an ML-DSA-44 cosignature (docs/protocol.md, section 13.3). */

import { sha256 } from '@noble/hashes/sha2.js';

import { SIGNATURE_BYTES, verifySignature } from './algorithms.js';
import { concat, equal, fromBase64, fromUtf8, u8, utf8 } from './bytes.js';
import { demand, Refusal } from './refusal.js';
import { verifyConsistency } from './merkle.js';

const FORM = 'malformed-message';
const CODE = 'log-inconsistent';
const COSIGNATURE_TYPE = 6;
const MAXIMUM_SIGNATURES = 16;

/**
 * A checkpoint that the device has verified; `timestamp` is Unix seconds.
 * @typedef {{size: number, root: Uint8Array, timestamp: number}} Checkpoint
 */

/** First 4 bytes of the hash that names a key in a note. */
const keyId = (origin, key) => sha256(concat(utf8(`${origin}\n`), Uint8Array.of(COSIGNATURE_TYPE), key)).slice(0, 4);

/**
 * Verify a note with the pinned origin and key: `malformed-message` for its form, `proof-refused` for another log's,
 * `invalid-signature` where the key has not signed.
 * @param {Uint8Array} note @param {string} origin @param {Uint8Array} key
 * @returns {Checkpoint}
 */
export function verifyNote(note, origin, key) {
  const written = fromUtf8(note);
  const [body, lines] = halves(written);
  const { size, root } = parseBody(body, origin);
  const blob = cosignature(lines, origin, keyId(origin, key));
  const timestamp = blob.slice(4, 12);
  verifySignature(key, signedMessage(origin, timestamp, size, root), blob.slice(12));
  return { size, root, timestamp: Number(new DataView(timestamp.buffer).getBigUint64(0)) };
}

function halves(written) {
  const at = written.indexOf('\n\n');
  demand(at > 0 && written.endsWith('\n'), FORM, 'A checkpoint is not a signed note.');
  const lines = written.slice(at + 2, -1).split('\n');
  demand(lines.length <= MAXIMUM_SIGNATURES, FORM, 'A checkpoint has too many signature lines.');
  return [written.slice(0, at + 1), lines];
}

/** Parse the three lines and compare them with their canonical form. */
function parseBody(body, origin) {
  const match = /^([^\n]+)\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/]{43}=)\n$/.exec(body);
  demand(match !== null, FORM, 'A checkpoint is not of three lines in their canonical form.');
  demand(match[1] === origin, 'proof-refused', 'A checkpoint is of another log.');
  const size = Number(match[2]);
  demand(Number.isSafeInteger(size) && size > 0, FORM, 'A checkpoint of an impossible size.');
  return { size, root: fromBase64(match[3]) };
}

function cosignature(lines, origin, id) {
  for (const line of lines) {
    const match = /^\u2014 (\S+) ([A-Za-z0-9+/]+=*)$/.exec(line);
    demand(match !== null, FORM, 'A checkpoint has a malformed signature line.');
    if (match[1] !== origin) continue;
    const blob = fromBase64(match[2]);
    if (blob.length === 4 + 8 + SIGNATURE_BYTES && equal(blob.slice(0, 4), id)) return blob;
  }
  throw new Refusal('invalid-signature', 'A checkpoint is not signed by the pinned log key.');
}

function signedMessage(origin, timestamp, size, root) {
  const name = concat(Uint8Array.of(utf8(origin).length), utf8(origin));
  return concat(utf8('subtree/v1\n'), Uint8Array.of(0), name, timestamp, name, u8(0), u8(size), root);
}

/**
 * Witness the log: verify what the server shows and that it extends what the device has seen (section 6.6).
 * @param {{logOrigin: string, logKey: Uint8Array, checkpoint: Checkpoint | null}} device
 * @param {Uint8Array | null} note @param {Uint8Array[]} proof @returns {Checkpoint | null} what to keep now
 */
export function witness(device, note, proof) {
  const seen = device.checkpoint;
  if (note === null) {
    demand(
      seen === null && proof.length === 0,
      CODE,
      'The server shows no checkpoint although this device has seen one.',
    );
    return null;
  }
  const shown = verifyNote(note, device.logOrigin, device.logKey);
  if (seen === null) demand(proof.length === 0, CODE, 'A consistency proof without a checkpoint to begin from.');
  else demandExtension(seen, shown, proof);
  return shown;
}

function demandExtension(seen, shown, proof) {
  try {
    verifyConsistency(seen.size, seen.root, shown.size, shown.root, proof);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    throw new Refusal(CODE, 'The log is not an extension of the checkpoint that this device has seen.');
  }
}
