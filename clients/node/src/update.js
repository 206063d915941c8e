/** Sealed updates, their manifests and receipts (docs/protocol.md, sections 11.2 to 11.5). */

import { randomBytes } from 'node:crypto';

import { equal, concat, utf8 } from './bytes.js';
import { Float } from './cbor.js';
import { sealStream } from './chunked-stream.js';
import { sign1, verify1 } from './cose.js';
import { bulkDigest, digest, frame, label } from './encoding.js';
import { bytes, integer, mapOf, members } from './fields.js';
import { hpkeSeal } from './hpke.js';
import { demand } from './refusal.js';

/** Media type of a submission. */
export const UPDATE = 'application/vnd.qflare.update';

const RECEIPT = {
  round_id: bytes(16),
  device_id: bytes(16),
  manifest_digest: bytes(64),
  ciphertext_digest: bytes(32),
  received_at: integer(0),
};

/**
 * Seal an update to a round's enclave.
 * @param {{federationId: Uint8Array, roundId: Uint8Array, deviceId: Uint8Array, keyId: Uint8Array,
 *   baseModelDigest: Uint8Array}} ids @param {Uint8Array} hpkeKey of the appraised evidence
 * @param {Uint8Array} container safetensors of new weights minus base weights @returns {Uint8Array} the blob
 */
export function sealUpdate({ federationId, roundId, deviceId, keyId, baseModelDigest }, hpkeKey, container) {
  const contentKey = new Uint8Array(randomBytes(32));
  const info = frame(label('update content key'), federationId, roundId, deviceId, keyId, baseModelDigest);
  const sealedKey = hpkeSeal(hpkeKey, info, contentKey);
  const stream = sealStream(contentKey, digest('update stream', info, sealedKey), container);
  return concat(utf8('QF1U'), frame(sealedKey), stream);
}

/**
 * The signed manifest of a blob.
 * @param {import('./algorithms.js').SignatureKey} key that the round's roster names
 * @param {Record<string, number>} metrics finite numbers by name
 */
export function makeManifest(
  key,
  { federationId, roundId, deviceId, keyId, baseModelDigest },
  blob,
  sampleCount,
  metrics,
) {
  const payload = mapOf({
    round_id: roundId,
    federation_id: federationId,
    device_id: deviceId,
    base_model_digest: baseModelDigest,
    sample_count: sampleCount,
    ciphertext_digest: bulkDigest(blob),
    ciphertext_bytes: blob.length,
    enclave_key_id: keyId,
    metrics: new Map(Object.entries(metrics).map(([name, value]) => [name, new Float(value)])),
    form: 'delta',
  });
  return sign1(key, 'update manifest', payload);
}

/** The plaintext of a submission. */
export const submissionOf = (manifest, blob) => concat(frame(manifest), blob);

/** The manifest of a submission that was kept. */
export function manifestOf(submission) {
  const length = Number(new DataView(submission.buffer, submission.byteOffset).getBigUint64(0));
  demand(length <= submission.length - 8, 'malformed-message', 'A kept submission is cut off.');
  return submission.slice(8, 8 + length);
}

/** Verify a receipt with the pinned identity key; `digest-mismatch` where it is of another manifest. */
export function checkReceipt(identityKey, deviceId, manifest, answer) {
  const { receipt } = members(answer, { receipt: bytes(1, 64 * 1024) });
  const read = verify1(identityKey, 'update receipt', receipt, RECEIPT);
  const same =
    equal(read.manifest_digest, digest('signed update manifest', manifest)) && equal(read.device_id, deviceId);
  demand(same, 'digest-mismatch', 'The receipt is not for this update.');
  return read;
}
