/** One part in one round: from the assignment to the verified receipt (docs/protocol.md, sections 9 to 11). */

import { existsSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { hex } from './bytes.js';
import { decode } from './cbor.js';
import { replaceFile } from './device.js';
import { appraise, firstUsePins, readEvidence } from './evidence.js';
import { askForWork, downloadBase, uuid } from './models.js';
import { demand, Refusal } from './refusal.js';
import { encodeTensors } from './safetensors.js';
import { checkReceipt, makeManifest, manifestOf, sealUpdate, submissionOf, UPDATE } from './update.js';

const submissionFile = (device) => join(dirname(device.file), 'submission.bin');

/**
 * Take part in the next round that invites this device; a submission that was kept goes first.
 * @param {import('./client.js').Client} client
 * @param {import('./constant-step-trainer.js').ConstantStepTrainer} trainer
 * @param {{repeatBase?: boolean}} [options] whether to train from a base model that another round has used
 */
export async function takePart(client, trainer, { repeatBase = false } = {}) {
  if (existsSync(submissionFile(client.device))) return submit(client);
  for (;;) {
    const assignment = await nextAssignment(client);
    const read = trustedEvidence(client, assignment);
    checkBase(client.device, assignment, repeatBase);
    const model = await downloadBase(client, assignment, client.device.pins);
    client.say(`model version ${assignment.base_version}: ${model.length} tensors`);
    rememberBase(client.device, assignment);
    keepSubmission(client, assignment, read, trainer, model);
    try {
      return await submit(client);
    } catch (error) {
      if (!(error instanceof Refusal) || error.code !== 'enclave-key-mismatch') throw error;
      client.say('the round has begun anew with another key: asking for work again');
    }
  }
}

async function nextAssignment(client) {
  for (;;) {
    const { round, ask_again_seconds: seconds, ask_again_milliseconds: sooner } = await askForWork(client);
    if (round !== null) {
      client.say(`round ${round.round_number} of ${round.federation}, operator's trainer: ${round.trainer}`);
      return round;
    }
    await sleep(sooner ?? 1000 * Math.max(seconds, 1));
  }
}

function trustedEvidence(client, assignment) {
  const { device } = client;
  const read = readEvidence(assignment.evidence);
  const pins = device.pins ?? firstUsePins(read);
  const [roundId, federationId, now] = [
    assignment.round_id,
    assignment.federation_id,
    Math.floor(client.clock.now() / 1000),
  ];
  appraise(read, pins, { roundId, federationId, now });
  if (device.pins === null) {
    client.say('TRUST ON FIRST USE: nothing was pinned, so this enclave is trusted from now on:');
    client.say(`  --attestation-key ${hex(pins.attestationKey)} --measurement ${hex(pins.measurement)}`);
    device.pins = pins;
    device.save();
  }
  client.say('evidence holds; tier: warning (software: root on the enclave host could forge it)');
  return read;
}

/** Refuse a base model older than one seen, and one that another round was trained from (section 15). */
function checkBase(device, assignment, repeatBase) {
  const { highestVersion = 0, bases = {} } = device.federations[uuid(assignment.federation_id)] ?? {};
  const current = assignment.base_version >= highestVersion;
  demand(current, 'base-model-mismatch', `Version ${highestVersion} was seen already; an older base is refused.`);
  const usedBy = bases[hex(assignment.base_model_digest)];
  const fresh = usedBy === undefined || usedBy === uuid(assignment.round_id) || repeatBase;
  demand(
    fresh,
    'base-model-mismatch',
    'Another round was trained from the same base model; --repeat-base allows it.',
  );
}

function rememberBase(device, assignment) {
  const federation = (device.federations[uuid(assignment.federation_id)] ??= { highestVersion: 0, bases: {} });
  federation.highestVersion = assignment.base_version;
  federation.bases[hex(assignment.base_model_digest)] = uuid(assignment.round_id);
  device.save();
}

function keepSubmission(client, assignment, read, trainer, model) {
  const { device } = client;
  const ids = {
    federationId: assignment.federation_id,
    roundId: assignment.round_id,
    deviceId: device.deviceId,
    keyId: read.keyId,
    baseModelDigest: assignment.base_model_digest,
  };
  const blob = sealUpdate(ids, read.claims.hpke_public_key, encodeTensors(trainer.delta(model)));
  const { signature } = device.keysOf(assignment.signature_key);
  const manifest = makeManifest(signature, ids, blob, trainer.sampleCount, {});
  replaceFile(submissionFile(device), submissionOf(manifest, blob));
  client.say(`update sealed: ${blob.length} bytes`);
}

/** Send the kept submission and forget it when its fate is known: a receipt, or a sealed refusal. */
async function submit(client) {
  const file = submissionFile(client.device);
  const submission = new Uint8Array(readFileSync(file));
  try {
    const answer = decode(await client.send('POST', '/api/submit_model', UPDATE, submission));
    const receipt = checkReceipt(client.device.identityKey, client.device.deviceId, manifestOf(submission), answer);
    client.say(`receipt verified for round ${uuid(receipt.round_id)}`);
  } catch (error) {
    if (error instanceof Refusal && error.sealed && error.status < 500 && error.status !== 429) rmSync(file);
    throw error;
  }
  rmSync(file);
}
