/** Work, models and their provenance (docs/protocol.md, sections 9 and 12). */

import { bulkDigest } from './encoding.js';
import { equal, hex } from './bytes.js';
import { verify1 } from './cose.js';
import { anyMap, boolean, bytes, integer, list, members, nullOr, text } from './fields.js';
import { decode } from './cbor.js';
import { openStream } from './chunked-stream.js';
import { appraise, readEvidence } from './evidence.js';
import { verifyInclusion } from './merkle.js';
import { demand } from './refusal.js';
import { decodeTensors } from './safetensors.js';

const MAXIMUM_BLOB_BYTES = 2 ** 30;
const EVIDENCE = bytes(1, 64 * 1024);
const RESULT_BYTES = 64 * 1024;
const WORK = {
  round: (value) => (value === null ? null : assignmentOf(value)),
  ask_again_seconds: integer(0, 3600),
};
const NOT_ALWAYS = { evaluation: anyMap(16), ask_again_milliseconds: integer(1, 30_000) };
function assignmentOf(value) {
  const shared = value instanceof Map && value.has('range_evidence');
  demand(!shared, 'evidence-refused', 'Several processes share the model; this client seals to one only.');
  return members(value, ASSIGNMENT, { older_bases: list(olderBase, 0, 64) });
}
const olderBase = (row) => {
  demand(Array.isArray(row) && row.length === 3, 'malformed-message', 'An older base is not such a list.');
  return { version: integer(0)(row[0]), model_digest: bytes(32)(row[1]), staleness: integer(1, 64)(row[2]) };
};
const ASSIGNMENT = {
  round_id: bytes(16),
  round_number: integer(1),
  federation_id: bytes(16),
  federation: text(1, 255),
  base_version: integer(0),
  base_model_digest: bytes(32),
  evidence: EVIDENCE,
  trainer: text(0, 1000),
  trainer_parameters: anyMap(1024),
  deadline: integer(0),
  signature_key: bytes(32),
};
const MODEL = {
  federation_id: bytes(16),
  version: integer(0),
  digest: bytes(32),
  size_bytes: integer(10),
  blob_digest: bytes(32),
  blob_bytes: integer(59, MAXIMUM_BLOB_BYTES),
  content_key: bytes(32),
  provenance: nullOr(bytes(1, RESULT_BYTES)),
  round_id: nullOr(bytes(16)),
  evidence: nullOr(EVIDENCE),
  verdict: nullOr(anyMap(3)),
};
const PROOF = { verdict: bytes(1, 2048), index: integer(0), path: list(bytes(32), 0, 64) };
const RESULT = {
  round_id: bytes(16),
  federation_id: bytes(16),
  enclave_key_id: bytes(32),
  base_model_digest: bytes(32),
  model_digest: bytes(32),
  model_bytes: integer(0),
  rule: text(1, 64),
  policy_digest: bytes(64),
  roster_digest: bytes(64),
  sample_total: integer(1),
  carried_in: bytes(64),
  carried_out: bytes(64),
  verdict_count: integer(0),
  accepted_count: integer(0),
  verdicts_root: bytes(32),
};
const STALENESS = integer(1, 64);
const OLDER_BASES = list(
  (value) => {
    demand(Array.isArray(value) && value.length === 2, 'malformed-message', 'An older base is a digest and its age.');
    return [bytes(32)(value[0], 'older base'), STALENESS(value[1], 'staleness')];
  },
  1,
  64,
);
const VERDICT = {
  device_id: bytes(16),
  manifest_digest: bytes(64),
  ciphertext_digest: nullOr(bytes(32)),
  accepted: boolean,
  reason: nullOr(text(1, 64)),
  detail: nullOr(text(0, 300)),
  scores: nullOr(anyMap(4)),
};

/** Ask for work once. @param {import('./client.js').Client} client */
export const askForWork = async (client) => workOf(await client.call('/api/work', new Map()));

/** Read an answer to a question for work; what it asks to evaluate is left undone, as the protocol allows (9.6). */
export const workOf = (answer) => members(answer, WORK, NOT_ALWAYS);

/**
 * Download the assignment's base model and check size, digests and provenance.
 * @param {import('./client.js').Client} client @param {Record<string, any>} assignment
 * @param {import('./evidence.js').Pins} pins @returns {Promise<import('./safetensors.js').Tensor[]>}
 */
export async function downloadBase(client, assignment, pins) {
  const { federation_id: federation, base_version: version } = assignment;
  const path = `/api/global_model?federation=${uuid(federation)}&version=${version}`;
  const model = members(await client.get(path), MODEL);
  const asked = model.version === version && equal(model.federation_id, federation);
  demand(asked, 'base-model-mismatch', 'The server answers with another model than was asked for.');
  demand(
    equal(model.digest, assignment.base_model_digest),
    'base-model-mismatch',
    'The model is not that of the assignment.',
  );
  if (version > 0) tellVerdict(client, model, checkProvenance(model, pins));
  return decodeTensors(await openedModel(client, model));
}

async function openedModel(client, model) {
  const blob = await client.http.download(`/api/blobs/${hex(model.blob_digest)}`, model.blob_bytes);
  const whole = blob.length === model.blob_bytes && equal(bulkDigest(blob), model.blob_digest);
  demand(whole, 'digest-mismatch', 'The blob does not have its size or digest.');
  const container = openStream(model.content_key, 'model version', blob);
  const same = container.length === model.size_bytes && equal(bulkDigest(container), model.digest);
  demand(same, 'digest-mismatch', 'The model does not have its size or digest.');
  return container;
}

/** Say what became of this device's update in the round that made the base model, once that is proved. */
function tellVerdict(client, model, result) {
  if (model.verdict === null) return;
  const own = ownVerdict(result, members(model.verdict, PROOF), client.device.deviceId);
  client.say(
    `round ${uuid(result.round_id)}: this device's update was ${own.accepted ? 'accepted' : `rejected, ${own.reason}`}`,
  );
}

/**
 * Read the verdict on a device's own update; `proof-refused` where the result does not have it.
 * @param {Record<string, any>} result @param {Record<string, any>} proof @param {Uint8Array} deviceId
 */
export function ownVerdict(result, proof, deviceId) {
  verifyInclusion(proof.verdict, proof.index, result.verdict_count, proof.path, result.verdicts_root);
  const verdict = members(decode(proof.verdict), VERDICT, { staleness: STALENESS });
  demand(equal(verdict.device_id, deviceId), 'proof-refused', 'The verdict is on the update of another device.');
  demand(verdict.accepted === (verdict.reason === null), 'malformed-message', 'A verdict without its reason.');
  const ages = [undefined, ...(result.older_bases ?? []).map(([, staleness]) => staleness)];
  demand(ages.includes(verdict.staleness), 'malformed-message', 'A verdict on an update to a model there is not.');
  return verdict;
}

/** Verify a round's signed result. @param {Uint8Array} key its enclave's result key */
export function readResult(key, signed) {
  const result = verify1(key, 'round result', signed, RESULT, {
    maximumBytes: RESULT_BYTES,
    optional: { older_bases: OLDER_BASES },
  });
  demand(result.accepted_count <= result.verdict_count, 'malformed-message', 'More are accepted than there are.');
  return result;
}

/** Check that an appraised enclave made the model (section 12). @returns the round's verified result */
function checkProvenance(model, pins) {
  const complete = model.provenance !== null && model.round_id !== null && model.evidence !== null;
  demand(complete, 'evidence-refused', 'A model version has no provenance.');
  const read = readEvidence(model.evidence);
  appraise(read, pins, { roundId: model.round_id, federationId: model.federation_id, now: null });
  const result = readResult(read.claims.result_public_key, model.provenance);
  const pairs = [
    [result.model_digest, model.digest],
    [result.federation_id, model.federation_id],
    [result.round_id, model.round_id],
    [result.enclave_key_id, read.keyId],
    [result.policy_digest, read.policyDigest],
  ];
  demand(
    pairs.every(([a, b]) => equal(a, b)),
    'evidence-refused',
    "A round's result is not of this model.",
  );
  return result;
}

/** An id in its form with dashes. */
export const uuid = (id) => hex(id).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
