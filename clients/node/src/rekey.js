/** Rekeying within a session, in both directions (docs/protocol.md, section 7.2). */

import { encapsulate, KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES } from './algorithms.js';
import { equal, u8 } from './bytes.js';
import { sign1, verify1 } from './cose.js';
import { digest, expand, extract, mac } from './encoding.js';
import { bytes, integer, mapOf } from './fields.js';
import { demand } from './refusal.js';

const MAXIMUM_BYTES = 64 * 1024;
const EPOCH = integer(0, 999_999_999_999);

/**
 * What both sides know of the next generation.
 * @typedef {{sessionId: Uint8Array, generation: number, ratchetKey: Uint8Array}} Next `generation` is the next one,
 *   `ratchetKey` that of the one before
 */

const members = (name, size) => ({ generation: integer(0), [name]: bytes(size), epoch: EPOCH });

function checkTurn(read, next, oldestEpoch) {
  demand(read.generation === next.generation, 'rekey-refused', 'A rekey of another generation.');
  demand(read.epoch >= oldestEpoch, 'rekey-refused', "The other side's epoch is over.");
}

/** Make an offer of a fresh KEM key. @returns {Uint8Array} O */
export function makeOffer(signer, next, ephemeralKey, epoch) {
  return sign1(
    signer,
    'rekey offer',
    mapOf({ generation: next.generation, ephemeral_key: ephemeralKey, epoch }),
    next.sessionId,
  );
}

/**
 * Answer an offer; `epoch` is the answering side's current one, `oldestEpoch` what it takes of the other side.
 * @returns {{answer: Uint8Array, offeredEpoch: number, keys: GenerationKeys, confirmation: Uint8Array}}
 */
export function answerOffer(signer, peerKey, next, offer, { epoch, oldestEpoch }) {
  const options = { boundTo: next.sessionId, maximumBytes: MAXIMUM_BYTES };
  const read = verify1(peerKey, 'rekey offer', offer, members('ephemeral_key', KEM_KEY_BYTES), options);
  checkTurn(read, next, oldestEpoch);
  const { ciphertext, secret } = encapsulate(read.ephemeral_key);
  const payload = mapOf({ generation: next.generation, ciphertext, epoch });
  const answer = sign1(signer, 'rekey answer', payload, digest('rekey offer', offer));
  return { answer, offeredEpoch: read.epoch, ...derive(next, offer, answer, secret) };
}

/**
 * Take the answer to an own offer; `rekey-refused` unless generation, epoch and confirmation hold.
 * @returns {{answeredEpoch: number, keys: GenerationKeys}}
 */
export function takeAnswer(ephemeral, peerKey, next, offer, { answer, confirmation, oldestEpoch }) {
  const options = { boundTo: digest('rekey offer', offer), maximumBytes: MAXIMUM_BYTES };
  const read = verify1(peerKey, 'rekey answer', answer, members('ciphertext', KEM_CIPHERTEXT_BYTES), options);
  checkTurn(read, next, oldestEpoch);
  const derived = derive(next, offer, answer, ephemeral.decapsulate(read.ciphertext));
  ephemeral.erase();
  demand(equal(derived.confirmation, confirmation), 'rekey-refused', 'The confirmation of a rekey does not hold.');
  return { answeredEpoch: read.epoch, keys: derived.keys };
}

/** @typedef {{chainKey: Uint8Array, ratchetKey: Uint8Array}} GenerationKeys */
function derive(next, offer, answer, secret) {
  const digests = [digest('rekey offer', offer), digest('rekey answer', answer)];
  const transcript = digest('rekey', next.sessionId, u8(next.generation), ...digests);
  const root = extract(transcript, next.ratchetKey, secret);
  const confirmation = mac(expand(root, 'rekey confirm', [], 64), 'rekey confirm', transcript);
  const keys = { chainKey: expand(root, 'chain'), ratchetKey: expand(root, 'ratchet') };
  root.fill(0);
  return { confirmation, keys };
}
