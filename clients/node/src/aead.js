/** AES-256-GCM with a tag of 16 bytes. */

import { gcm } from '@noble/ciphers/aes.js';

import { Refusal } from './refusal.js';

/** Bytes of a tag. */
export const TAG_BYTES = 16;

/** @returns {Uint8Array} ciphertext and tag */
export const seal = (key, nonce, plaintext, aad) => gcm(key, nonce, aad).encrypt(plaintext);

/** Open ciphertext and tag; `Refusal(code)` unless they are authentic. */
export function open(key, nonce, sealed, aad, code = 'decryption-failed') {
  try {
    return gcm(key, nonce, aad).decrypt(sealed);
  } catch {
    throw new Refusal(code, 'A ciphertext does not open.');
  }
}
