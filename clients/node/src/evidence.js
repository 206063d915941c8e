/** Enclave evidence and its appraisal (docs/protocol.md, section 10). */

import { checkPublicKey, SIGNATURE_KEY_BYTES, SUITE } from './algorithms.js';
import { equal, u8 } from './bytes.js';
import { encode, Float } from './cbor.js';
import { verify1 } from './cose.js';
import { digest, fingerprint } from './encoding.js';
import { anyMap, boolean, bytes, decodeMembers, float, integer, list, members, text } from './fields.js';
import { HPKE_KEY_BYTES } from './hpke.js';
import { demand, Refusal } from './refusal.js';

const CODE = 'evidence-refused';
const PROTECTIONS = [
  'resource-limits',
  'namespaces',
  'unprivileged-uid',
  'own-uid',
  'no-capabilities',
  'parent-death-signal',
  'not-dumpable',
  'no-new-privileges',
  'landlock',
  'closed-descriptors',
  'seccomp',
];
const PROCESS_TIER = [
  'resource-limits',
  'unprivileged-uid',
  'no-capabilities',
  'parent-death-signal',
  'not-dumpable',
  'no-new-privileges',
  'closed-descriptors',
  'seccomp',
];
const SEALING_TIERS = {
  none: [],
  process: PROCESS_TIER,
  separate: [...PROCESS_TIER, 'own-uid', 'landlock'],
  full: PROTECTIONS,
};
const OLDEST_SECONDS = 90 * 86400;
const ENVELOPE = {
  attester: text(1, 64),
  attestation_key: bytes(SIGNATURE_KEY_BYTES),
  statement: bytes(1, 64 * 1024),
};
const STATEMENT = { claims: anyMap(16), report_data: bytes(64) };
const CLAIMS = {
  nonce: bytes(16, 64),
  round_id: bytes(16),
  federation_id: bytes(16),
  hpke_public_key: bytes(HPKE_KEY_BYTES),
  result_public_key: bytes(SIGNATURE_KEY_BYTES),
  measurement: bytes(64),
  policy: anyMap(32),
  protections: (value) => members(value, Object.fromEntries(PROTECTIONS.map((protection) => [protection, boolean]))),
  issued_at: integer(0),
};
const LARGEST_PARAMETER = 1e12;
const number = (value, name) => {
  const plain = value instanceof Float ? value.value : value;
  demand(typeof plain === 'number' && Math.abs(plain) <= LARGEST_PARAMETER, 'malformed-message', `${name} is no number.`);
  return plain;
};
const parameters = (value, name) => {
  for (const [key, parameter] of anyMap(8)(value, name)) number(parameter, text(1, 40)(key, name));
  return value;
};
const stage = (value) => members(value, { name: text(1, 40), parameters });
const rootDevice = (value, name) => {
  demand(/^([0-9a-f]{32})?$/.test(value), 'malformed-message', `${name} is not a device id in hex.`);
  return value;
};
const STALENESS = { maximum_staleness: integer(1, 64), staleness_exponent: float(0, 4) };
const POLICY = {
  minimum_updates: integer(3, 1_000_000),
  tolerated_fraction: float(0, 0.499),
  filters: list(stage, 0, 8),
  pre_aggregation: list(stage, 0, 8),
  rule: stage,
  history: float(0, 0.999),
  server_optimiser: stage,
  noise: stage,
  root_device: rootDevice,
  maximum_sample_count: integer(1, 10 ** 9),
  maximum_update_bytes: integer(4096, 2 ** 36),
  maximum_memory_bytes: integer(2 ** 29, 2 ** 40),
  required_tier: text(1, 64),
  required_protections: list(text(1, 64), 0, PROTECTIONS.length),
};

/**
 * What a device believes an enclave to be.
 * @typedef {{attestationKey: Uint8Array, measurement: Uint8Array}} Pins the fingerprint (32) and the measurement (64)
 */

/**
 * What evidence says, its form, signature and report data checked, but nothing of it appraised.
 * @param {Uint8Array} evidence
 */
export function readEvidence(evidence) {
  demand(evidence.length <= 64 * 1024, 'malformed-message', 'Evidence has at most 64 KiB.');
  const { attester, attestation_key: attestationKey, statement } = decodeMembers(evidence, ENVELOPE);
  demand(attester === 'software', CODE, 'Evidence of hardware, which this client has no verifier for.');
  checkPublicKey(attestationKey, SIGNATURE_KEY_BYTES);
  const { claims: map, report_data: reportData } = verify1(attestationKey, 'enclave evidence', statement, STATEMENT);
  const shared = map instanceof Map && map.has('range_count');
  demand(!shared, CODE, 'The evidence is of one range of a shared model, which this client does not take.');
  const claims = members(map, CLAIMS);
  checkPublicKey(claims.hpke_public_key, HPKE_KEY_BYTES);
  checkPublicKey(claims.result_public_key, SIGNATURE_KEY_BYTES);
  claims.policy = readPolicy(map.get('policy'));
  const policyDigest = digest('aggregation policy', encode(map.get('policy')));
  const expected = reportDataOf(claims, policyDigest, encode(map.get('protections')));
  demand(equal(reportData, expected), CODE, 'The report data do not belong to the claims.');
  const keyId = digest('enclave key', claims.hpke_public_key, claims.result_public_key).slice(0, 32);
  return { claims, policyDigest, keyId, attestationKey: fingerprint(SUITE.signature, attestationKey) };
}

function readPolicy(map) {
  for (const member of ['form', 'parameters']) {
    demand(!map.has(member), 'policy-refused', 'This client seals updates of the form delta of all parameters only.');
  }
  let policy;
  try {
    policy = members(map, POLICY, STALENESS);
  } catch (error) {
    throw error instanceof Refusal ? new Refusal('policy-refused', error.detail) : error;
  }
  demand(Object.hasOwn(SEALING_TIERS, policy.required_tier), 'policy-refused', 'The policy demands an unknown tier.');
  const required = policy.required_protections;
  const sorted = required.every((name, index) => index === 0 || required[index - 1] < name);
  demand(
    sorted && required.every((name) => PROTECTIONS.includes(name)),
    'policy-refused',
    'The policy demands unknown protections.',
  );
  return policy;
}

function reportDataOf(claims, policyDigest, protections) {
  const ids = [claims.nonce, claims.round_id, claims.federation_id, claims.hpke_public_key, claims.result_public_key];
  return digest('enclave evidence', ...ids, claims.measurement, policyDigest, protections, u8(claims.issued_at));
}

/**
 * Decide about evidence (section 10.4); `evidence-refused` unless all of it holds.
 * @param {ReturnType<typeof readEvidence>} read @param {Pins} pins
 * @param {{roundId: Uint8Array, federationId: Uint8Array, now: number | null, minimumUpdates?: number,
 *   oldestSeconds?: number}} expected `now` is Unix seconds, or null for a past round, whose age does not matter
 */
export function appraise(read, pins, expected) {
  const { roundId, federationId, now, minimumUpdates = 3, oldestSeconds = OLDEST_SECONDS } = expected;
  const { claims } = read;
  demand(equal(read.attestationKey, pins.attestationKey), CODE, 'The attestation key is not the pinned one.');
  demand(equal(claims.measurement, pins.measurement), CODE, 'The measurement is not the pinned one.');
  const here = equal(claims.round_id, roundId) && equal(claims.federation_id, federationId);
  demand(here, CODE, 'The evidence is of another round or federation.');
  const timely = now === null || (claims.issued_at <= now + 300 && claims.issued_at >= now - oldestSeconds);
  demand(timely, CODE, 'The evidence is too old, or from the future.');
  demand(
    claims.policy.minimum_updates >= minimumUpdates,
    CODE,
    'The policy aggregates fewer updates than this device demands.',
  );
  const demanded = [...SEALING_TIERS[claims.policy.required_tier], ...claims.policy.required_protections];
  const held = demanded.every((name) => claims.protections[name]);
  demand(held, CODE, 'A protection that the policy demands is not held.');
}

/** The pins of the first evidence that an authenticated server shows (trust on first use). @returns {Pins} */
export function firstUsePins(read) {
  return { attestationKey: read.attestationKey, measurement: read.claims.measurement };
}
