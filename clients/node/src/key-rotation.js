/** Registering new keys, K1 to K4 (docs/protocol.md, section 7.3). */

import { randomBytes } from 'node:crypto';

import { KEM_CIPHERTEXT_BYTES, SUITE } from './algorithms.js';
import { equal } from './bytes.js';
import { sign1, verify1 } from './cose.js';
import { digest, expand, extract, mac } from './encoding.js';
import { bytes, integer, mapOf, members } from './fields.js';
import { demand } from './refusal.js';

const SIGNED = bytes(1, 64 * 1024);
const C_MEMBERS = { attempt: bytes(16), ciphertext: bytes(KEM_CIPHERTEXT_BYTES), nonce: bytes(32) };
const K4_MEMBERS = {
  kem_key: bytes(32),
  signature_key: bytes(32),
  valid_from: integer(0),
  predecessor_valid_until: integer(0),
};

/** The device's side of one rotation: `begin` (K1), `prove` (K3), `finish`. */
export class KeyRotation {
  /**
   * @param {import('./device.js').KeySet} old the keys that opened the session
   * @param {import('./device.js').KeySet} fresh the new keys, kept durably before
   */
  constructor(sessionId, deviceId, identityKey, old, fresh) {
    Object.assign(this, { sessionId, deviceId, identityKey, old, fresh });
  }

  begin() {
    const { kem, signature } = this.fresh;
    const payload = mapOf({
      device_id: this.deviceId,
      suite: SUITE.name,
      kem_key: kem.publicKey,
      signature_key: signature.publicKey,
      nonce: new Uint8Array(randomBytes(32)),
    });
    const begin = sign1(signature, 'key rotation', payload, this.sessionId);
    const fingerprints = mapOf({ kem_key: kem.fingerprint, signature_key: signature.fingerprint });
    const boundTo = digest('key rotation begin', begin);
    const authorization = sign1(this.old.signature, 'key rotation authorization', fingerprints, boundTo);
    this.reference = digest('key rotation', begin, authorization);
    return mapOf({ begin, authorization });
  }

  prove(body) {
    const { challenge } = members(body, { challenge: SIGNED });
    const read = verify1(this.identityKey, 'key rotation challenge', challenge, C_MEMBERS, {
      boundTo: this.reference,
    });
    const secret = this.fresh.kem.decapsulate(read.ciphertext);
    this.transcript = digest('key rotation transcript', this.reference, digest('key rotation challenge', challenge));
    const key = expand(extract(this.transcript, secret), 'key rotation confirm', [], 64);
    return mapOf({ attempt: read.attempt, confirmation: mac(key, 'key rotation confirm', this.transcript) });
  }

  /** Verify K4. @returns {number} until when the old keys are valid, in Unix seconds */
  finish(body) {
    const { confirmation } = members(body, { confirmation: SIGNED });
    const boundTo = this.transcript;
    const read = verify1(this.identityKey, 'key rotation confirmation', confirmation, K4_MEMBERS, { boundTo });
    const { kem, signature } = this.fresh;
    const same = equal(read.kem_key, kem.fingerprint) && equal(read.signature_key, signature.fingerprint);
    demand(same, 'key-rotation-refused', 'The server has registered other keys than these.');
    return read.predecessor_valid_until;
  }
}
