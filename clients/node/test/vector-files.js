/** The protocol's test vectors, docs/vectors: cases, refusals, and an interpreter of their steps. */

import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { gcm } from '@noble/ciphers/aes.js';
import { p384 } from '@noble/curves/nist.js';
import { blake3 } from '@noble/hashes/blake3.js';
import { hkdf } from '@noble/hashes/hkdf.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { sha3_256, sha3_512, shake256 } from '@noble/hashes/sha3.js';
import { ml_kem768_x25519 as xWing } from '@noble/post-quantum/hybrid.js';
import { ml_dsa44, ml_dsa65, ml_dsa87 } from '@noble/post-quantum/ml-dsa.js';

import { KemKey } from '../src/algorithms.js';
import { concat, fromHex, u8, utf8 } from '../src/bytes.js';
import { decode, encode } from '../src/cbor.js';
import { digest, expand, extract, fingerprint, frame, label, mac } from '../src/encoding.js';
import { HpkeKey } from '../src/hpke.js';

const FOLDER = process.env.QFLARE_DOC_VECTORS ?? fileURLToPath(new URL('../../../docs/vectors/', import.meta.url));
const SIGNATURES = { 'ML-DSA-44': [ml_dsa44, -48], 'ML-DSA-65': [ml_dsa65, -49], 'ML-DSA-87': [ml_dsa87, -50] };

/** The names of the files, without `.json`; none where the folder is not beside this one. */
export function vectorNames() {
  try {
    return readdirSync(FOLDER).flatMap((file) => /^(.+)\.json$/.exec(file)?.[1] ?? []);
  } catch {
    return [];
  }
}

/** One file, its values decoded: `{cases: [{name, values, steps}], refusals: [{name, receiver, code, values}]}`. */
export function readVectors(name) {
  const file = JSON.parse(readFileSync(`${FOLDER}/${name}.json`, 'utf8'));
  const cases = file.cases.map((entry) => ({ name: entry.name, values: valuesOf(entry), steps: entry.steps ?? [] }));
  const refusals = file.refusals.map(({ name, receiver, code, of, replaces }) => {
    const base = cases.find((entry) => entry.name === of)?.values ?? {};
    return { name, receiver, code, of, replaced: valuesOf(replaces), values: { ...base, ...valuesOf(replaces) } };
  });
  return { cases, refusals };
}

function valuesOf({ bytes = {}, numbers = {}, texts = {}, lists = {} }) {
  const decoded = Object.entries(bytes).map(([name, value]) => [name, fromHex(value)]);
  const listed = Object.entries(lists).map(([name, items]) => [name, items.map(fromHex)]);
  return { ...numbers, ...texts, ...Object.fromEntries([...decoded, ...listed]) };
}

/** Thrown for an algorithm that this client does not serve: the step has to be skipped. */
export class NotServed extends Error {}

/** The values of one case with the functions of docs/vectors/README.md over them. */
export class Steps {
  constructor(values) {
    this.values = { ...values };
    this.unknown = new Set();
  }

  /** A value by its name, or `structure.member` of a signed structure. */
  value(name) {
    if (name in this.values) return this.values[name];
    if (this.unknown.has(name)) throw new NotServed(`${name} follows from what is not served`);
    const [structure, member] = name.split('.');
    if (member === undefined || !(structure in this.values)) throw new Error(`no value ${name}`);
    return decode(decode(this.values[structure])[2]).get(member);
  }

  fields(names) {
    return names.map((name) => {
      const value = this.value(name);
      return typeof value === 'number' ? u8(value) : typeof value === 'string' ? utf8(value) : value;
    });
  }

  /** What the step gives; undefined for a check. */
  run(step) {
    const method = FUNCTIONS[step.function];
    if (method === undefined) throw new Error(`no function ${step.function}`);
    return method(this, step);
  }
}

const FUNCTIONS = {
  frame: (at, { inputs }) => frame(...at.fields(inputs)),
  'labelled frame': (at, { label: purpose, inputs }) => frame(label(purpose), ...at.fields(inputs)),
  digest: (at, { label: purpose, inputs, length = 64 }) => digest(purpose, ...at.fields(inputs)).slice(0, length),
  extract: (at, { salt, inputs }) => extract(at.value(salt), ...at.fields(inputs)),
  expand: (at, { key, label: purpose, inputs = [], length }) =>
    expand(at.value(key), purpose, at.fields(inputs), length),
  mac: (at, { key, label: purpose, inputs }) => mac(at.value(key), purpose, ...at.fields(inputs)),
  sign1: checkSign1,
  'public key': (at, { algorithm, private: seed }) => SIGNATURES[algorithm][0].keygen(at.value(seed)).publicKey,
  generate: (_, { algorithm }) => notServed(algorithm),
  decapsulate,
  'ECDH-P384': (at, { private: scalar, point }) =>
    p384.getSharedSecret(at.value(scalar), at.value(point), false).slice(1, 49),
  'AES-256-GCM': (at, { key, nonce, plaintext, aad }) =>
    gcm(at.value(key), at.value(nonce), aad && at.value(aad)).encrypt(at.value(plaintext)),
  slice: (at, { input, begin, end }) => at.value(input).slice(begin, end),
  member: (at, { map, member }) => decode(at.value(map)).get(member),
  concatenate: (at, { inputs }) => concat(...inputs.map((name) => at.value(name))),
  'HKDF-SHA3-512': (at, { key, info, length }) => hkdf(sha3_512, at.value(key), undefined, at.value(info), length),
  'open HPKE': (at, { private: key, info, sealed }) =>
    new HpkeKey(at.value(key)).open(at.value(info), at.value(sealed)),
  SHAKE256: (at, { input, length }) => shake256(at.value(input), { dkLen: length }),
  'SHA3-256': (at, { input }) => sha3_256(at.value(input)),
  'SHA3-512': (at, { input }) => sha3_512(at.value(input)),
  'SHA-256': (at, { input }) => sha256(at.value(input)),
  BLAKE3: (at, { input }) => blake3(at.value(input)),
};

function notServed(algorithm) {
  throw new NotServed(`${algorithm} is not served by this client`);
}

function decapsulate(at, { algorithm, private: name, ciphertext }) {
  if (algorithm.startsWith('FrodoKEM')) notServed(algorithm);
  const [key, sent] = [at.value(name), at.value(ciphertext)];
  if (algorithm === 'ML-KEM-1024') return new KemKey(key).decapsulate(sent);
  if (algorithm === 'X-Wing') return xWing.decapsulate(sent, key);
  return new HpkeKey(key).decapsulate(sent);
}

/** As src/cose.js, for all the algorithms of signatures; that file is tested by the receivers. */
function checkSign1(at, { structure, label: purpose, algorithm, key, bound_to: boundTo }) {
  const [signer, cose] = SIGNATURES[algorithm];
  const [header, , payload, signature] = decode(at.value(structure));
  const fields = decode(header);
  if (fields.get(1) !== cose) throw new Error('another algorithm');
  if (Buffer.compare(fields.get(4), fingerprint(algorithm, at.value(key))) !== 0) throw new Error('another key');
  const aad = frame(label(purpose), boundTo === undefined ? '' : at.value(boundTo));
  const signed = encode(['Signature1', header, aad, payload]);
  if (!signer.verify(signature, signed, at.value(key))) throw new Error(`${structure} does not verify`);
}
