/** The command line. */

import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';

import { SUITE } from './algorithms.js';
import { fromHex } from './bytes.js';
import { Client } from './client.js';
import { ConstantStepTrainer } from './constant-step-trainer.js';
import { Device, deviceFile, KeySet, loadDevice } from './device.js';
import { Enrolment } from './enrolment.js';
import { bytes } from './fields.js';
import { Http } from './http.js';
import { Refusal } from './refusal.js';
import { takePart } from './round.js';

const HELP = `qflare-node: a second client of QF/1, for suite ${SUITE.name}

  qflare-node enroll --server URL --token QF1... --name NAME --home DIR     (or QFLARE_TOKEN)
  qflare-node session --home DIR          open a session, rekey it twice, close it
  qflare-node rotate-keys --home DIR      register new keys
  qflare-node train-once --home DIR       take part in the next round, without training: see --scale
      --scale NUMBER             the constant step that is added to every weight (default 0.001)
      --sample-count NUMBER      weight that the update claims (default 1)
      --attestation-key HEX      pin the enclave's attestation key (fingerprint, 32 bytes)
      --measurement HEX          pin the enclave's code (64 bytes); without both: trust on first use
      --repeat-base              train from a base model that another round has used

The keys are in DIR/device.json, mode 0600, NOT encrypted. Exit status: 0 done, 1 failed, 2 refused.
`;

const OPTIONS = {
  server: { type: 'string' },
  token: { type: 'string' },
  name: { type: 'string' },
  home: { type: 'string' },
  scale: { type: 'string', default: '0.001' },
  'sample-count': { type: 'string', default: '1' },
  'attestation-key': { type: 'string' },
  measurement: { type: 'string' },
  'repeat-base': { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
};

const COMMANDS = { enroll, session, 'rotate-keys': rotateKeys, 'train-once': trainOnce };

/** Run one command. @param {string[]} args @returns {Promise<number>} exit status */
export async function main(args) {
  try {
    const { values, positionals } = parseArgs({ args, options: OPTIONS, allowPositionals: true });
    const command = COMMANDS[positionals[0]];
    if (values.help || positionals.length === 0) process.stdout.write(HELP);
    else if (command === undefined || positionals.length > 1) throw new Error(`no such command; see --help`);
    else await command(values);
    return 0;
  } catch (error) {
    process.stderr.write(`${error instanceof Refusal ? `refused: ${error.message}` : `error: ${error.message}`}\n`);
    return error instanceof Refusal ? 2 : 1;
  }
}

const say = (line) => process.stdout.write(`${line}\n`);

function need(values, ...names) {
  for (const name of names) if (values[name] === undefined) throw new Error(`--${name} is needed`);
}

async function enroll(values) {
  values.token ??= process.env.QFLARE_TOKEN;
  need(values, 'server', 'token', 'name', 'home');
  const file = deviceFile(values.home);
  if (existsSync(file)) throw new Error(`${file} exists: this device is enrolled`);
  const http = new Http(values.server, say);
  const enrolment = new Enrolment(values.token, values.name);
  const proof = enrolment.answer(await http.post('/api/enroll', enrolment.begin()));
  const enrolled = enrolment.finish(await http.post('/api/enroll', proof));
  const current = new KeySet(enrolment.kem, enrolment.signature);
  new Device(file, { ...enrolled, server: values.server, name: values.name, current }).save();
  say(`enrolled as ${values.name}, suite ${SUITE.name}; keys, not encrypted, in ${file}`);
}

function clientOf(values) {
  need(values, 'home');
  const device = loadDevice(values.home);
  return new Client(device, new Http(device.server, say), say);
}

async function session(values) {
  const client = clientOf(values);
  await client.open();
  for (const side of ['device', 'server']) {
    await client.session.rekey();
    say(`rekeyed to generation ${client.session.generation}, offered by the ${side}`);
  }
  await client.close();
  say('session closed');
}

async function rotateKeys(values) {
  const client = clientOf(values);
  await client.open();
  await client.rotateKeys();
  await client.open();
  await client.close();
  say('a session with the new keys was opened and closed');
}

async function trainOnce(values) {
  const client = clientOf(values);
  pin(client.device, values);
  const [scale, sampleCount] = [Number(values.scale), Number(values['sample-count'])];
  if (!Number.isFinite(scale) || !Number.isSafeInteger(sampleCount))
    throw new Error('--scale or --sample-count is not such a number');
  say(`ConstantStepTrainer: adds ${scale} to every weight and learns nothing`);
  await takePart(client, new ConstantStepTrainer(scale, sampleCount), { repeatBase: values['repeat-base'] });
  await client.close();
}

function pin(device, values) {
  if (values['attestation-key'] === undefined && values.measurement === undefined) return;
  need(values, 'attestation-key', 'measurement');
  const attestationKey = bytes(32)(fromHex(values['attestation-key']), '--attestation-key');
  device.pins = { attestationKey, measurement: bytes(64)(fromHex(values.measurement), '--measurement') };
  device.save();
}
