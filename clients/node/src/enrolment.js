/** Enrolment, E1 to E4 (docs/protocol.md, section 5). */

import { randomBytes } from 'node:crypto';

import { seal } from './aead.js';
import { KEM_CIPHERTEXT_BYTES, KemKey, SIGNATURE_KEY_BYTES, SignatureKey, SUITE } from './algorithms.js';
import { equal } from './bytes.js';
import { unverifiedMembers, sign1, verify1 } from './cose.js';
import { digest, expand, extract, fingerprint } from './encoding.js';
import { bytes, exactly, integer, mapOf, members, text } from './fields.js';
import { demand } from './refusal.js';
import { follow, SUCCESSION } from './succession.js';
import { parseToken } from './token.js';

const SIGNED = bytes(1, 64 * 1024);
const E2_MEMBERS = {
  attempt: bytes(16),
  ciphertext: bytes(KEM_CIPHERTEXT_BYTES),
  nonce: bytes(32),
  identity_algorithm: exactly(SUITE.signature),
  identity_key: bytes(SIGNATURE_KEY_BYTES),
  expires_at: integer(0),
};
const E4_MEMBERS = {
  device_id: bytes(16),
  name: text(1, 100),
  log_origin: text(1, 255),
  log_key: bytes(SIGNATURE_KEY_BYTES),
  enrolled_at: integer(0),
};

/** The device's side of one enrolment: `begin`, then `answer`, then `finish`. */
export class Enrolment {
  /** @param {string} tokenText @param {string} name */
  constructor(tokenText, name) {
    this.token = parseToken(tokenText);
    this.name = name;
    this.kem = new KemKey();
    this.signature = new SignatureKey();
  }

  /** The body of the first request. */
  begin() {
    const payload = mapOf({
      token: this.token.lookup,
      name: this.name,
      suite: SUITE.name,
      kem_key: this.kem.publicKey,
      signature_key: this.signature.publicKey,
      nonce: new Uint8Array(randomBytes(32)),
    });
    this.e1 = sign1(this.signature, 'enrol begin', payload);
    return mapOf({ begin: this.e1 });
  }

  /** Verify E2 against the token's pin and return the body of the second request. */
  answer(answer) {
    const { challenge, succession } = members(answer, { challenge: SIGNED, succession: SUCCESSION });
    const boundTo = digest('enrol begin', this.e1);
    this.identityKey = this.#authenticated(unverifiedMembers(challenge, E2_MEMBERS).identity_key, succession);
    const e2 = verify1(this.identityKey, 'enrol challenge', challenge, E2_MEMBERS, { boundTo });
    this.transcript = digest('enrol transcript', boundTo, digest('enrol challenge', challenge));
    const key = expand(extract(this.transcript, this.kem.decapsulate(e2.ciphertext)), 'enrol token key');
    this.sealedToken = seal(key, new Uint8Array(12), this.token.secret, this.transcript);
    return mapOf({ attempt: e2.attempt, sealed_token: this.sealedToken });
  }

  #authenticated(identityKey, succession) {
    const pinned = this.token.identityFingerprint;
    const reached = follow(pinned, succession);
    const found = reached === null ? pinned : fingerprint(SUITE.signature, reached);
    const matches = equal(fingerprint(SUITE.signature, identityKey), found);
    demand(matches, 'server-not-authenticated', "The server's identity is not the one that the token pins.");
    return identityKey;
  }

  /** Verify E4 and return what the device keeps. */
  finish(answer) {
    const { confirmation } = members(answer, { confirmation: SIGNED });
    const boundTo = digest('enrol finished', this.transcript, this.sealedToken);
    const e4 = verify1(this.identityKey, 'enrol confirmation', confirmation, E4_MEMBERS, { boundTo });
    demand(e4.name === this.name, 'enrolment-refused', 'The server confirms another name.');
    return { deviceId: e4.device_id, identityKey: this.identityKey, logOrigin: e4.log_origin, logKey: e4.log_key };
  }
}
