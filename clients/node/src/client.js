/** A device's dealings with its server: opens sessions when they are needed and keeps keys in order. */

import { equal } from './bytes.js';
import { decode, encode } from './cbor.js';
import { KeySet } from './device.js';
import { Handshake } from './handshake.js';
import { KeyRotation } from './key-rotation.js';
import { demand, Refusal } from './refusal.js';
import { Clock, signedServerTime } from './server-time.js';
import { Session } from './session.js';

const CBOR = 'application/cbor';
const OLD_CHECKPOINT_SECONDS = 600;

/** The one who calls: sealed requests over whatever session is open. */
export class Client {
  /**
   * @param {import('./device.js').Device} device @param {import('./http.js').Http} http
   * @param {(line: string) => void} say told of every step @param {Clock} [clock]
   */
  constructor(device, http, say, clock = new Clock()) {
    Object.assign(this, { device, http, say, clock });
    /** @type {Session | null} */ this.session = null;
  }

  /** Post a CBOR map and return the decoded answer. */
  async call(path, map) {
    return decode(await this.send('POST', path, CBOR, encode(map)));
  }

  /** Get what a path names, decoded. */
  async get(path) {
    return decode(await this.send('GET', path, '', new Uint8Array()));
  }

  /**
   * Send a sealed request, over a new session where the old one does not serve any more. An unsealed refusal is not
   * authentic: it is believed so far that one new session is opened, and is `service-unavailable` the second time.
   */
  async send(method, path, contentType, plaintext) {
    await this.#ready(plaintext.length);
    try {
      return await this.session.send(method, path, contentType, plaintext);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      await this.#recover(error);
    }
    try {
      return await this.session.send(method, path, contentType, plaintext);
    } catch (error) {
      if (!(error instanceof Refusal) || error.sealed) throw error;
      throw new Refusal('service-unavailable', `Only unsealed answers come: ${error.message}`);
    }
  }

  /** Make what a refusal asks for so that one more try has a chance; throw it where nothing would help. */
  async #recover(refusal) {
    if (refusal.sealed && refusal.code === 'key-rotation-required') await this.rotateKeys();
    else if (refusal.sealed && refusal.code !== 'session-limit-reached') throw refusal;
    else if (refusal.code === 'service-unavailable') throw refusal;
    this.say(`${refusal.code}: opening a new session`);
    await this.open();
  }

  async #ready(size) {
    if (this.session === null || this.session.isOver) await this.open();
    else if (this.session.needsRekey(size)) await this.rekey();
  }

  /** Begin the session's next generation, or a new session where that is refused. */
  async rekey() {
    try {
      await this.session.rekey();
      this.say(`rekeyed: generation ${this.session.generation}`);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.say(`${error.code} at the rekey: opening a new session`);
      await this.open();
    }
  }

  /** Shake hands, with the new keys where the old ones have ended meanwhile, and rotate keys where demanded. */
  async open() {
    this.session = null;
    const handshake = await this.#shakeHands();
    this.say(`session ${handshake.m2.suite} open, log witnessed at size ${this.device.checkpoint?.size ?? 0}`);
    this.#reportAge(this.device.checkpoint);
    if (!handshake.m2.rotate_keys) return;
    this.say('the server demands new keys');
    await this.rotateKeys();
    await this.#shakeHands();
  }

  #reportAge(checkpoint) {
    const seconds = checkpoint === null ? 0 : Math.floor(this.clock.now() / 1000) - checkpoint.timestamp;
    if (seconds > OLD_CHECKPOINT_SECONDS) this.say(`WARNING: the log's checkpoint is ${seconds} s old`);
  }

  async #shakeHands() {
    const { current, pending } = this.device;
    try {
      return await this.#shakeHandsWith(current);
    } catch (error) {
      if (pending === null || !(error instanceof Refusal) || error.code !== 'authentication-failed') throw error;
      return this.#shakeHandsWith(pending);
    }
  }

  /** M1 and M3 are answered once: where an answer was lost the whole handshake is made anew. */
  async #shakeHandsWith(keys) {
    return this.http.retrying(() => this.#shakeHandsOnce(keys));
  }

  async #shakeHandsOnce(keys) {
    const [handshake, challenge] = await this.#challenge(keys);
    const response = handshake.answer(challenge);
    this.#checkCurrentKey(handshake.m2.current_key, keys);
    this.clock.set(handshake.m2.server_time);
    const secrets = handshake.finish(await this.http.postOnce('/api/authenticate', response));
    this.device.identityKey = handshake.identityKey;
    this.device.checkpoint = handshake.checkpoint;
    this.device.logKey = handshake.logKey;
    this.device.save();
    this.#settlePending(handshake.m2.current_key);
    this.session = new Session(this.http, this.clock, handshake, secrets);
    return handshake;
  }

  async #challenge(keys) {
    let handshake = new Handshake(this.device, keys, this.clock.bucket());
    try {
      return [handshake, await this.http.postOnce('/api/challenge', handshake.begin())];
    } catch (error) {
      if (!(error instanceof Refusal) || error.code !== 'clock-skew') throw error;
      this.clock.set(signedServerTime(error, this.device.identityKey, handshake.m1));
    }
    this.say(`the clock is set by ${Math.round(this.clock.offsetMilliseconds / 1000)} s, on the server's signature`);
    handshake = new Handshake(this.device, keys, this.clock.bucket());
    return [handshake, await this.http.postOnce('/api/challenge', handshake.begin())];
  }

  #checkCurrentKey(currentKey, keys) {
    const own = [keys, this.device.pending].filter((set) => set !== null);
    const known = own.some((set) => equal(set.signature.fingerprint, currentKey));
    demand(
      known,
      'key-rotation-refused',
      'Somebody else has registered keys for this device: tell the operator, enrol again.',
    );
  }

  /** Where the answer to a rotation was lost, the server's `current_key` tells that it went through. */
  #settlePending(currentKey) {
    const { pending } = this.device;
    if (pending === null || !equal(pending.signature.fingerprint, currentKey)) return;
    this.device.promotePending(null);
    this.say('the keys whose registration had begun are the current ones');
  }

  /** Register new keys and end the session; they are on disk before the server hears of them. */
  async rotateKeys() {
    if (this.session === null || this.session.isOver) await this.#shakeHands();
    const { device, session } = this;
    device.pending ??= new KeySet();
    device.save();
    const rotation = new KeyRotation(
      session.sessionId,
      device.deviceId,
      device.identityKey,
      { signature: session.signer },
      device.pending,
    );
    const proof = rotation.prove(await session.call('/api/keys/rotate', rotation.begin()));
    device.promotePending(rotation.finish(await session.call('/api/keys/rotate', proof)));
    this.say('new keys are registered');
    await this.close();
  }

  async close() {
    await this.session?.close();
    this.session = null;
  }
}
