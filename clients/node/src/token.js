/** Enrolment tokens: `QF1.<secret>.<fingerprint>` (docs/protocol.md, section 5). */

import { fromBase64 } from './bytes.js';
import { digest } from './encoding.js';
import { Refusal } from './refusal.js';

/** @returns {{secret: Uint8Array, identityFingerprint: Uint8Array, lookup: Uint8Array}} */
export function parseToken(text) {
  const match = /^QF1\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{43})$/.exec(text);
  if (match === null) throw new Refusal('malformed-message', 'An enrolment token reads QF1.<secret>.<fingerprint>.');
  const secret = fromBase64(match[1], 'base64url');
  const identityFingerprint = fromBase64(match[2], 'base64url');
  return { secret, identityFingerprint, lookup: digest('enrolment token lookup', secret).slice(0, 16) };
}
