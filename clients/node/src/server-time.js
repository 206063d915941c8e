/** The signed time of a clock refusal (docs/protocol.md, section 6.5). */

import { SUITE } from './algorithms.js';
import { fromBase64 } from './bytes.js';
import { verify1 } from './cose.js';
import { digest, fingerprint } from './encoding.js';
import { integer } from './fields.js';
import { demand, Refusal } from './refusal.js';
import { follow } from './succession.js';

/** A clock with an offset that a server's signed time may set. */
export class Clock {
  offsetMilliseconds = 0;

  constructor(now = Date.now) {
    this.device = now;
  }

  /** Unix milliseconds on the server's clock, as far as the device knows it. */
  now() {
    return this.device() + this.offsetMilliseconds;
  }

  /** The epoch of section 7.1. */
  bucket() {
    return Math.floor(this.now() / 300_000);
  }

  /** @param {number} milliseconds of the server's clock, from something it signed */
  set(milliseconds) {
    this.offsetMilliseconds = milliseconds - this.device();
  }
}

/**
 * The server's time of a refusal, verified with the pinned identity key or a successor of it.
 * @param {Refusal} refusal @param {Uint8Array} identityKey
 * @param {Uint8Array} reference M1, or what section 6.5 names
 * @returns {number} milliseconds
 */
export function signedServerTime(refusal, identityKey, reference) {
  const { signed_server_time: encoded, identity_succession: statements = [] } = refusal.members;
  const fits =
    typeof encoded === 'string' && Array.isArray(statements) && statements.every((item) => typeof item === 'string');
  demand(fits, 'malformed-message', 'A clock refusal without its signed time.');
  const reached = follow(fingerprint(SUITE.signature, identityKey), statements.map(fromPaddedBase64url));
  const boundTo = digest('refused', reference);
  const expected = { server_time: integer(0) };
  return verify1(reached ?? identityKey, 'server time', fromPaddedBase64url(encoded), expected, { boundTo })
    .server_time;
}

/** "Base64url with padding": Node knows it without, so the padding is checked and cut off. */
function fromPaddedBase64url(encoded) {
  const unpadded = encoded.replace(/=+$/, '');
  demand(
    encoded.length % 4 === 0 && encoded.length - unpadded.length < 3,
    'malformed-message',
    'Not padded base64url.',
  );
  return fromBase64(unpadded, 'base64url');
}
