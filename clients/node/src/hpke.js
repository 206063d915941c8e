/** HPKE to MLKEM1024-P384, mode base, single shot, SHAKE256 and AES-256-GCM (docs/protocol.md, section 2). */

import { p384 } from '@noble/curves/nist.js';
import { sha3_256, shake256 } from '@noble/hashes/sha3.js';

import { open, seal } from './aead.js';
import { encapsulate, KEM_KEY_BYTES, KemKey } from './algorithms.js';
import { concat, isZero, utf8 } from './bytes.js';
import { demand, Refusal } from './refusal.js';

const POINT_BYTES = 97;
/** Bytes of a public key: ML-KEM-1024 encapsulation key and uncompressed point. */
export const HPKE_KEY_BYTES = KEM_KEY_BYTES + POINT_BYTES;

const SUITE_ID = concat(utf8('HPKE'), Uint8Array.of(0, 0x51, 0, 0x11, 0, 0x02));
const EMPTY = new Uint8Array();

function checkPoint(point, code) {
  try {
    // Accepts what lies on the curve only; P-384 has no other subgroup, and 97 bytes leave no room for infinity.
    p384.Point.fromBytes(point);
  } catch {
    throw new Refusal(code, 'A point is not on the curve P-384.');
  }
  demand(point[0] === 4, code, 'A point is not uncompressed.');
}

const ecdhX = (scalar, point) => p384.getSharedSecret(scalar, point, false).slice(1, 49);

const combine = (mlkem, ecdh, ephemeral, recipient) =>
  sha3_256(concat(mlkem, ecdh, ephemeral, recipient, utf8('MLKEM1024-P384')));

const prefixed = (bytes) => concat(Uint8Array.of(bytes.length >> 8, bytes.length & 255), bytes);

function schedule(shared, info) {
  const purpose = concat(utf8('HPKE-v1'), SUITE_ID, prefixed(utf8('secret')), Uint8Array.of(0, 0x6c));
  const input = concat(prefixed(EMPTY), prefixed(shared), purpose, Uint8Array.of(0), prefixed(EMPTY), prefixed(info));
  const secret = shake256(input, { dkLen: 108 });
  return [secret.slice(0, 32), secret.slice(32, 44)];
}

/** Seal a plaintext to a public key. @returns {Uint8Array} enc || ct, 1681 bytes more than the plaintext */
export function hpkeSeal(publicKey, info, plaintext) {
  demand(publicKey.length === HPKE_KEY_BYTES, 'invalid-key', 'An HPKE key has 1665 bytes.');
  const [lattice, recipient] = [publicKey.slice(0, KEM_KEY_BYTES), publicKey.slice(KEM_KEY_BYTES)];
  demand(!isZero(recipient), 'invalid-key', 'The curve part of an HPKE key is zero.');
  checkPoint(recipient, 'invalid-key');
  const { ciphertext, secret } = encapsulate(lattice);
  const scalar = p384.utils.randomSecretKey();
  const ephemeral = p384.getPublicKey(scalar, false);
  const [key, nonce] = schedule(combine(secret, ecdhX(scalar, recipient), ephemeral, recipient), info);
  return concat(ciphertext, ephemeral, seal(key, nonce, plaintext, EMPTY));
}

/** A key pair, for tests and for whoever wants to receive. */
export class HpkeKey {
  /** @param {Uint8Array} [privateKey] seed d || z (64) and scalar (48); fresh ones where none is given */
  constructor(privateKey) {
    this.kem = new KemKey(privateKey?.slice(0, 64));
    this.scalar = privateKey?.slice(64) ?? p384.utils.randomSecretKey();
    demand(p384.utils.isValidSecretKey(this.scalar), 'invalid-key', 'Not a scalar of P-384.');
    this.point = p384.getPublicKey(this.scalar, false);
    this.publicKey = concat(this.kem.publicKey, this.point);
  }

  /** The shared secret (32 bytes) of ciphertext and point; `malformed-message` for a point off the curve. */
  decapsulate(enc) {
    demand(enc.length === 1568 + POINT_BYTES, 'malformed-message', 'An MLKEM1024-P384 ciphertext has 1665 bytes.');
    const ephemeral = enc.slice(1568);
    checkPoint(ephemeral, 'malformed-message');
    const secret = this.kem.decapsulate(enc.slice(0, 1568));
    return combine(secret, ecdhX(this.scalar, ephemeral), ephemeral, this.point);
  }

  /** Open a message; `decryption-failed` unless it is whole and authentic. */
  open(info, message) {
    try {
      const [key, nonce] = schedule(this.decapsulate(message.slice(0, HPKE_KEY_BYTES)), info);
      return open(key, nonce, message.slice(HPKE_KEY_BYTES), EMPTY);
    } catch (error) {
      throw error instanceof Refusal ? new Refusal('decryption-failed', error.detail) : error;
    }
  }
}
