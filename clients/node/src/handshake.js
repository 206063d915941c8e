/** The handshake, M1 to M4 (docs/protocol.md, sections 6.1 to 6.4 and 6.6). */

import { randomBytes } from 'node:crypto';

import { encapsulate, KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES, KemKey, SUITE } from './algorithms.js';
import { equal } from './bytes.js';
import { witness } from './checkpoint.js';
import { sign1, verify1 } from './cose.js';
import { digest, expand, extract, fingerprint, mac } from './encoding.js';
import { boolean, bytes, integer, list, mapOf, members, nullOr, text } from './fields.js';
import { demand } from './refusal.js';
import { follow, followLog, SUCCESSION } from './succession.js';

const HIGHEST_LIMITS = [64, 268435456, 3, 3600];
const M2_MEMBERS = {
  suite: text(1, 64),
  session_id: bytes(16),
  nonce: bytes(32),
  epoch: integer(0, 999_999_999_999),
  server_time: integer(0),
  ephemeral_ciphertext: bytes(KEM_CIPHERTEXT_BYTES),
  registered_ciphertext: bytes(KEM_CIPHERTEXT_BYTES),
  ephemeral_key: bytes(KEM_KEY_BYTES),
  limits: list(integer(1), 4, 4),
  checkpoint: nullOr(bytes(1, 16 * 1024)),
  consistency_proof: list(bytes(32), 0, 128),
  rotate_keys: boolean,
  current_key: bytes(32),
};

const confirmation = (root, side, transcript) =>
  mac(expand(root, `confirm ${side}`, [], 64), `confirm ${side}`, transcript);

/** The device's side of one handshake: `begin` (M1), `answer` (M2, gives M3), `finish` (M4). */
export class Handshake {
  /**
   * @param {import('./device.js').Device} device @param {import('./device.js').KeySet} keys that sign and open
   * @param {number} bucket the epoch of the device's clock
   */
  constructor(device, keys, bucket) {
    this.device = device;
    this.keys = keys;
    this.bucket = bucket;
    this.ephemeral = new KemKey();
  }

  /** The body for /api/challenge. */
  begin() {
    const { deviceId, checkpoint, identityKey } = this.device;
    const payload = mapOf({
      suites: [SUITE.name],
      device_id: deviceId,
      nonce: new Uint8Array(randomBytes(32)),
      bucket: this.bucket,
      ephemeral_key: this.ephemeral.publicKey,
      checkpoint: checkpoint === null ? null : [checkpoint.size, checkpoint.root],
      server_identity: fingerprint(SUITE.signature, identityKey),
      qkd_key_id: null,
    });
    this.m1 = sign1(this.keys.signature, 'M1', payload);
    return mapOf({ request: this.m1 });
  }

  /** Verify M2, with its limits and the log's checkpoint, and return the body for /api/authenticate. */
  answer(body) {
    const known = { answer: bytes(1, 2 ** 20), succession: SUCCESSION };
    const rotated = body instanceof Map && body.has('log_succession') ? { log_succession: SUCCESSION } : {};
    const { answer, succession, log_succession: logSuccession = [] } = members(body, { ...known, ...rotated });
    const pinned = fingerprint(SUITE.signature, this.device.identityKey);
    this.identityKey = follow(pinned, succession) ?? this.device.identityKey;
    const m2 = verify1(this.identityKey, 'M2', answer, M2_MEMBERS, { boundTo: digest('M1', this.m1) });
    demand(m2.suite === SUITE.name, 'suite-refused', 'The server answers with a suite that was not offered.');
    const within = m2.limits.every((limit, index) => limit <= HIGHEST_LIMITS[index]);
    demand(within, 'malformed-message', 'The server states limits above those of the protocol.');
    this.logKey = followLog(this.device.logKey, logSuccession);
    this.checkpoint = witness({ ...this.device, logKey: this.logKey }, m2.checkpoint, m2.consistency_proof);
    this.m2 = m2;
    return this.#prove(answer);
  }

  #prove(answer) {
    const { ciphertext, secret } = encapsulate(this.m2.ephemeral_key);
    const half = digest('M1 M2', digest('M1', this.m1), digest('M2', answer));
    this.transcript = digest('transcript', half, ciphertext);
    const first = this.ephemeral.decapsulate(this.m2.ephemeral_ciphertext);
    const second = this.keys.kem.decapsulate(this.m2.registered_ciphertext);
    this.root = extract(this.transcript, first, second, secret);
    this.ephemeral.erase();
    const proof = confirmation(this.root, 'device', this.transcript);
    return mapOf({ session_id: this.m2.session_id, ciphertext, confirmation: proof });
  }

  /** Verify M4 and return the chain key of epoch `m2.epoch` and the ratchet key of generation 0. */
  finish(body) {
    const received = members(body, { confirmation: bytes(64) }).confirmation;
    const expected = confirmation(this.root, 'server', this.transcript);
    demand(equal(received, expected), 'server-not-authenticated', "The server's confirmation does not hold.");
    const keys = { chainKey: expand(this.root, 'chain'), ratchetKey: expand(this.root, 'ratchet') };
    this.root.fill(0);
    return keys;
  }
}
