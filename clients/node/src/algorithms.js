/** The algorithms this client serves, each call behind a check of lengths (docs/protocol.md, section 2). */

import { ml_dsa44 } from '@noble/post-quantum/ml-dsa.js';
import { ml_kem1024 } from '@noble/post-quantum/ml-kem.js';
import { randomBytes } from 'node:crypto';

import { isZero } from './bytes.js';
import { fingerprint } from './encoding.js';
import { demand, Refusal } from './refusal.js';

/** The one suite of this client, see README.md. */
export const SUITE = Object.freeze({
  name: 'QF1-K1024',
  kem: 'ML-KEM-1024',
  ephemeralKem: 'ML-KEM-1024',
  signature: 'ML-DSA-44',
});

export const KEM_KEY_BYTES = 1568;
export const KEM_CIPHERTEXT_BYTES = 1568;
export const SIGNATURE_KEY_BYTES = 1312;
export const SIGNATURE_BYTES = 2420;
/** COSE number of ML-DSA-44. */
export const COSE_ALGORITHM = -48;

/** Check the length of a public key and that it is not all zero; `invalid-key` otherwise. */
export function checkPublicKey(key, bytes) {
  demand(
    key.length === bytes && !isZero(key),
    'invalid-key',
    `A public key of ${bytes} bytes that are not all zero is expected.`,
  );
  return key;
}

/** A key pair of ML-KEM-1024; the private key is the seed d || z. */
export class KemKey {
  /** @param {Uint8Array} [seed] 64 bytes; fresh ones where none are given */
  constructor(seed = randomBytes(64)) {
    demand(seed.length === 64 && !isZero(seed), 'invalid-key', 'An ML-KEM seed has 64 bytes.');
    this.seed = Uint8Array.from(seed);
    const pair = ml_kem1024.keygen(this.seed);
    this.publicKey = pair.publicKey;
    this.expanded = pair.secretKey;
  }

  get fingerprint() {
    return fingerprint(SUITE.kem, this.publicKey);
  }

  /** The secret (32 bytes) of a ciphertext; `malformed-message` for a wrong length. */
  decapsulate(ciphertext) {
    demand(
      ciphertext.length === KEM_CIPHERTEXT_BYTES,
      'malformed-message',
      'An ML-KEM-1024 ciphertext has 1568 bytes.',
    );
    return ml_kem1024.decapsulate(ciphertext, this.expanded);
  }

  /** Overwrite the private key. */
  erase() {
    this.seed.fill(0);
    this.expanded.fill(0);
  }
}

/** Encapsulate to an ML-KEM-1024 public key. @returns {{ciphertext: Uint8Array, secret: Uint8Array}} */
export function encapsulate(publicKey) {
  checkPublicKey(publicKey, KEM_KEY_BYTES);
  try {
    const { cipherText, sharedSecret } = ml_kem1024.encapsulate(publicKey);
    return { ciphertext: cipherText, secret: sharedSecret };
  } catch {
    throw new Refusal('invalid-key', 'The ML-KEM-1024 key fails the modulus check of FIPS 203.');
  }
}

/** A key pair of ML-DSA-44; the private key is its seed. */
export class SignatureKey {
  /** @param {Uint8Array} [seed] 32 bytes; fresh ones where none are given */
  constructor(seed = randomBytes(32)) {
    demand(seed.length === 32 && !isZero(seed), 'invalid-key', 'An ML-DSA seed has 32 bytes.');
    this.seed = Uint8Array.from(seed);
    const pair = ml_dsa44.keygen(this.seed);
    this.publicKey = pair.publicKey;
    this.expanded = pair.secretKey;
  }

  get fingerprint() {
    return fingerprint(SUITE.signature, this.publicKey);
  }

  /** Sign, hedged with fresh randomness, with an empty context. @returns {Uint8Array} 2420 bytes */
  sign(message) {
    return ml_dsa44.sign(message, this.expanded);
  }
}

/** Verify an ML-DSA-44 signature with an empty context; `invalid-signature` unless it holds. */
export function verifySignature(publicKey, message, signature) {
  checkPublicKey(publicKey, SIGNATURE_KEY_BYTES);
  const holds = signature.length === SIGNATURE_BYTES && ml_dsa44.verify(signature, message, publicKey);
  demand(holds, 'invalid-signature', 'An ML-DSA-44 signature does not verify.');
}
