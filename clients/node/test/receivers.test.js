/** The device's side of this client on the messages of docs/vectors: it takes them, and refuses what it has to. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { KemKey, SignatureKey } from '../src/algorithms.js';
import { equal, fromHex, hex, toBase64, utf8 } from '../src/bytes.js';
import { decode } from '../src/cbor.js';
import { verifyNote } from '../src/checkpoint.js';
import { openStream, sealStream } from '../src/chunked-stream.js';
import { bulkDigest, digest, frame, label } from '../src/encoding.js';
import { Enrolment } from '../src/enrolment.js';
import { appraise, readEvidence } from '../src/evidence.js';
import { mapOf } from '../src/fields.js';
import { Handshake } from '../src/handshake.js';
import { HpkeKey, hpkeSeal } from '../src/hpke.js';
import { KeyRotation } from '../src/key-rotation.js';
import { verifyConsistency, verifyInclusion } from '../src/merkle.js';
import { ownVerdict, readResult } from '../src/models.js';
import { Refusal } from '../src/refusal.js';
import { answerOffer, takeAnswer } from '../src/rekey.js';
import { openAnswer } from '../src/sealed-request.js';
import { signedServerTime } from '../src/server-time.js';
import { checkReceipt } from '../src/update.js';
import { readVectors, vectorNames } from './vector-files.js';

/** Refusals that this client has no way to meet, each with its reason. */
const NOT_HERE = {
  'another challenge': "the nonce of evidence is the server's in this release",
};

function enrolmentOf(at) {
  const enrolment = new Enrolment(at.token, at.name ?? 'press 7, Köln');
  enrolment.kem = new KemKey(at.device_kem_private);
  enrolment.e1 = at.e1;
  return enrolment;
}

function readE2(at) {
  const enrolment = enrolmentOf(at);
  enrolment.answer(mapOf({ challenge: at.e2, succession: at.succession }));
  return enrolment;
}

function readE4(at, original) {
  const enrolment = readE2({ ...at, e2: original.e2 });
  assert.equal(hex(enrolment.sealedToken), hex(original.sealed_token));
  enrolment.finish(mapOf({ confirmation: at.e4 }));
}

function handshakeOf(at) {
  const device = {
    identityKey: at.pinned_identity_public,
    deviceId: at.device_id,
    logOrigin: at.log_origin,
    logKey: at.log_public,
    checkpoint: at.seen_root === undefined ? null : { size: at.seen_size, root: at.seen_root },
  };
  const keys = { kem: new KemKey(at.device_kem_private), signature: new SignatureKey(at.device_signature_private) };
  const handshake = new Handshake(device, keys, 0);
  handshake.ephemeral = new KemKey(at.device_ephemeral_private);
  handshake.m1 = at.m1;
  return handshake;
}

function readM2(at) {
  // An empty statement stands for one that is missing.
  const succession = at.statement === undefined || at.statement.length === 0 ? [] : [at.statement];
  const handshake = handshakeOf(at);
  handshake.answer(mapOf({ answer: at.m2, succession }));
  return handshake;
}

function readM4(at) {
  const handshake = handshakeOf(at);
  Object.assign(handshake, { root: Uint8Array.from(at.root), transcript: at.transcript });
  const keys = handshake.finish(mapOf({ confirmation: at.m4_confirmation }));
  assert.equal(hex(keys.chainKey), hex(at.chain_key));
  assert.equal(hex(keys.ratchetKey), hex(at.ratchet_key));
}

const nextOf = (at) => ({ sessionId: at.session_id, generation: at.generation, ratchetKey: at.old_ratchet_key });

function answerTheOffer(at) {
  const epochs = { epoch: at.epoch, oldestEpoch: at.epoch - 1 };
  answerOffer(new SignatureKey(at.answering_private), at.offering_public, nextOf(at), at.offer, epochs);
}

function takeTheAnswer(at) {
  const answer = { answer: at.answer, confirmation: at.confirmation, oldestEpoch: at.epoch - 1 };
  const { keys } = takeAnswer(new KemKey(at.offer_private), at.answering_public, nextOf(at), at.offer, answer);
  assert.equal(hex(keys.chainKey), hex(at.chain_key));
  assert.equal(hex(keys.ratchetKey), hex(at.ratchet_key));
}

function rotationOf(at) {
  const fresh = { kem: new KemKey(at.new_kem_private), signature: new SignatureKey(at.new_signature_private) };
  const rotation = new KeyRotation(at.session_id, at.device_id, at.server_identity_public, null, fresh);
  rotation.reference = at.R;
  return rotation;
}

function readK2(at) {
  const k3 = rotationOf(at).prove(mapOf({ challenge: at.C }));
  assert.equal(hex(k3.get('confirmation')), hex(at.k3_confirmation));
}

function readK4(at) {
  const rotation = rotationOf(at);
  rotation.transcript = at.T;
  assert.equal(rotation.finish(mapOf({ confirmation: at.k4 })), at.predecessor_valid_until);
}

function openTheAnswer(at) {
  const place = { sessionId: at.session_id, generation: at.generation, epoch: at.epoch, sequence: at.sequence };
  const tag = fromHex(/tag=([0-9a-f]+)$/.exec(at.header)[1]);
  const answer = {
    status: at.status,
    contentType: at.answer_type,
    salt: hex(at.answer_salt),
    body: at.sealed_answer,
  };
  assert.equal(hex(openAnswer(at.traffic_key, place, tag, answer)), hex(at.answer));
}

function appraiseEvidence(at) {
  const pins = { attestationKey: at.attestation_fingerprint, measurement: at.measurement };
  const { round_id: roundId, federation_id: federationId, now } = at;
  const demands = { minimumUpdates: at.demanded_updates, oldestSeconds: at.maximum_age_seconds };
  const read = readEvidence(at.evidence);
  appraise(read, pins, { roundId, federationId, now, ...demands });
  assert.equal(hex(read.keyId), hex(at.key_id));
}

function readServerTime(at) {
  const signed = toBase64(at.signed_server_time).replaceAll('+', '-').replaceAll('/', '_');
  const refusal = new Refusal('clock-skew', 'a test', { members: { signed_server_time: signed } });
  const time = signedServerTime(refusal, at.server_identity_public, at.reference);
  assert.equal(time, at.server_time_milliseconds);
}

function openBlob(at) {
  const ids = [at.federation_id, at.round_id, at.device_id, at.enclave_key_id, at.base_model_digest];
  const info = frame(label('update content key'), ...ids);
  assert.ok(equal(at.blob.slice(0, 4), utf8('QF1U')) && at.blob.length > 1725, 'decryption-failed');
  const sealedKey = at.blob.slice(12, 1725);
  const contentKey = new HpkeKey(at.hpke_private).open(info, sealedKey);
  const container = openStream(contentKey, digest('update stream', info, sealedKey), at.blob.slice(1725));
  assert.equal(hex(container), hex(at.plaintext));
}

function readReceipt(at) {
  checkReceipt(at.server_identity_public, at.device_id, at.manifest, mapOf({ receipt: at.receipt }));
}

function openTheStream(at) {
  const stream = at.pieces === undefined ? streamOf(at) : joined(streamOf(at), at.pieces);
  openStream(at.key, at.context, stream);
}

/** The stored stream, or a long one written again and compared by its digest. */
function streamOf(at) {
  if (at.stream !== undefined) return at.stream;
  const plaintext = Uint8Array.from({ length: at.plaintext_bytes }, (_, index) => index % 251);
  const stream = sealStream(at.key, at.context, plaintext, at.prefix);
  assert.equal(hex(bulkDigest(stream)), hex(at.stream_blake3));
  return stream;
}

const joined = (whole, pieces) =>
  Buffer.concat(pieces.split(',').map((range) => whole.slice(...range.split(':').map(Number))));

const readNote = (at) => {
  const { size, root } = verifyNote(utf8(at.note), at.origin, at.log_public);
  assert.equal(size, at.size);
  assert.equal(hex(root), hex(at.root));
};

function readOwnVerdict(at) {
  const result = readResult(at.result_public, at.result);
  const proof = { verdict: at.verdict_3, index: at.shown_index, path: at.shown_path };
  assert.equal(ownVerdict(result, proof, at.shown_device).reason, 'norm-above-bound');
}

function readProofs(at) {
  verifyConsistency(at.seen_size, at.seen_root, at.size, at.root, at.consistency_proof);
  const entry = at[`entry_${at.shown_index}`];
  verifyInclusion(entry, at.shown_index, at.size, at.inclusion_proof, at.root);
}

/** By file and receiver: run it on the values of a case, the unchanged case beside it. */
const RECEIVERS = {
  encoding: { reader: (at) => decode(at.cbor) },
  hpke: {
    recipient: (at) => new HpkeKey(at.private).open(at.info, at.sealed),
    sender: (at) => hpkeSeal(at.public, at.info, at.plaintext),
  },
  suite_qf1_k1024: { 'device reads M2': readM2, 'device reads M4': readM4 },
  enrolment: { 'device reads E2': readE2, 'device reads E4': readE4 },
  handshake: { 'device reads M2': readM2, 'device reads M4': readM4 },
  server_time: { device: readServerTime },
  rekey: { 'answering side': answerTheOffer, 'offering side': takeTheAnswer },
  key_rotation: { 'device reads K2': readK2, 'device reads K4': readK4 },
  sealed_request: { 'device opens the answer': openTheAnswer },
  evidence: { 'device appraises': appraiseEvidence },
  update: { 'enclave opens the blob': openBlob, 'device reads the receipt': readReceipt },
  chunked_stream: { reader: openTheStream },
  round_result: {
    'device reads the result': (at) => readResult(at.result_public, at.result),
    'device reads its verdict': readOwnVerdict,
  },
  checkpoint: {
    'reader of the note': readNote,
    'reader of the proofs': readProofs,
  },
};

const present = vectorNames().filter((name) => name in RECEIVERS);

test('the files of all receivers are there', { skip: present.length === 0 && 'no docs/vectors' }, () => {
  assert.deepEqual(present.toSorted(), Object.keys(RECEIVERS).toSorted());
});

for (const name of present) {
  const { cases, refusals } = readVectors(name);
  for (const [receiver, run] of Object.entries(RECEIVERS[name])) {
    for (const { name: caseName, values } of cases) {
      const skip = lacks(receiver, values);
      test(`${name}: ${receiver}: takes ${caseName}`, { skip }, () => void run(values, values));
    }
  }
  for (const { name: what, receiver, code, of, values } of refusals) {
    if (!(receiver in RECEIVERS[name])) continue;
    const original = cases.find((entry) => entry.name === of)?.values;
    test(`${name}: ${receiver}: refuses ${what} as ${code}`, { skip: NOT_HERE[what] ?? false }, () => {
      const refused = (error) => (error.code === 'ERR_ASSERTION' ? error.message : error.code) === code;
      assert.throws(() => RECEIVERS[name][receiver](values, original), refused);
    });
  }
}

/** Why a receiver has nothing to do with a case, or false. */
function lacks(receiver, values) {
  if (receiver === 'device opens the answer' && values.sealed_answer === undefined) return 'no answer in this case';
  return false;
}
