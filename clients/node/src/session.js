/** One session: numbering, sealing, counting and rekeying its requests (docs/protocol.md, sections 7 and 8). */

import { KemKey } from './algorithms.js';
import { decode, encode } from './cbor.js';
import { EpochChain } from './epochs.js';
import { bytes, mapOf, members } from './fields.js';
import { accepted, refusalOf } from './http.js';
import { answerOffer, makeOffer, takeAnswer } from './rekey.js';
import { demand, Refusal } from './refusal.js';
import { openAnswer, sealRequest, SEALED } from './sealed-request.js';

const CBOR = 'application/cbor';
const PROBLEM = 'application/problem+json';
const MAXIMUM_ANSWER_BYTES = 65 * 2 ** 20;
const SIGNED = bytes(1, 64 * 1024);

/** A session after its handshake. */
export class Session {
  /**
   * @param {import('./http.js').Http} http @param {import('./server-time.js').Clock} clock
   * @param {import('./handshake.js').Handshake} handshake verified
   * @param {{chainKey: Uint8Array, ratchetKey: Uint8Array}} keys what the handshake gave
   */
  constructor(http, clock, handshake, keys) {
    const { session_id: sessionId, epoch, limits } = handshake.m2;
    Object.assign(this, {
      http,
      clock,
      sessionId,
      signer: handshake.keys.signature,
      identityKey: handshake.identityKey,
    });
    [this.maximumRequests, this.maximumBytes, this.maximumEpochs, this.maximumSeconds] = limits;
    this.endsAt = clock.now() + this.maximumSeconds * 1000;
    this.sequence = 0;
    this.#begin(0, keys, epoch);
  }

  #begin(generation, { chainKey, ratchetKey }, epoch) {
    Object.assign(this, { generation, ratchetKey, firstEpoch: epoch, requests: 0, bytes: 0 });
    this.chain = new EpochChain(chainKey, epoch);
  }

  /** Whether its hour is over. */
  get isOver() {
    return this.clock.now() >= this.endsAt;
  }

  /** Whether a request of that many bytes would go beyond what this generation may protect. */
  needsRekey(size) {
    this.chain.advance(this.clock.bucket());
    const spent = this.requests >= this.maximumRequests || this.bytes + size > this.maximumBytes;
    return spent || this.chain.epoch >= this.firstEpoch + this.maximumEpochs;
  }

  /** Send a CBOR map and return the decoded answer. */
  async call(path, map) {
    return decode(await this.send('POST', path, CBOR, encode(map)));
  }

  /**
   * Send one sealed request, again byte for byte while an answer is lost, and open its answer.
   * @returns {Promise<Uint8Array>} the plaintext; a sealed refusal is thrown with `sealed` set
   */
  async send(method, path, contentType, plaintext) {
    this.chain.advance(this.clock.bucket());
    this.sequence += 1;
    const place = {
      sessionId: this.sessionId,
      generation: this.generation,
      epoch: this.chain.epoch,
      sequence: this.sequence,
    };
    const trafficKey = this.chain.trafficKey();
    const { headers, body, tag } = sealRequest(trafficKey, place, { method, path, contentType, plaintext });
    const opened = await this.http.retrying(async () => {
      const answer = await this.http.exchange(method, path, { headers, body, maximumBytes: MAXIMUM_ANSWER_BYTES });
      return openedAnswer(trafficKey, place, tag, answer);
    });
    this.requests += 1;
    this.bytes += body.length;
    return opened;
  }

  /** Begin the next generation: offer a key for an odd one, answer the server's offer for an even one. */
  async rekey() {
    const generation = this.generation + 1;
    const next = { sessionId: this.sessionId, generation, ratchetKey: this.ratchetKey };
    const { keys, serverEpoch } = generation % 2 === 1 ? await this.#offer(next) : await this.#answer(next);
    this.ratchetKey.fill(0);
    this.#begin(generation, keys, serverEpoch);
  }

  async #offer(next) {
    this.chain.advance(this.clock.bucket());
    const ephemeral = new KemKey();
    const offer = makeOffer(this.signer, next, ephemeral.publicKey, this.chain.epoch);
    const body = await this.call('/api/session/rekey', mapOf({ offer }));
    const answer = members(body, { answer: SIGNED, confirmation: bytes(64) });
    const oldestEpoch = this.chain.epoch - 1;
    const taken = takeAnswer(ephemeral, this.identityKey, next, offer, { ...answer, oldestEpoch });
    return { keys: taken.keys, serverEpoch: taken.answeredEpoch };
  }

  async #answer(next) {
    const { offer } = members(await this.call('/api/session/rekey', new Map()), { offer: SIGNED });
    const epochs = { epoch: this.chain.epoch, oldestEpoch: this.chain.epoch - 1 };
    const made = answerOffer(this.signer, this.identityKey, next, offer, epochs);
    const { answer, confirmation } = made;
    members(await this.call('/api/session/rekey', mapOf({ answer, confirmation })), {});
    return { keys: made.keys, serverEpoch: made.offeredEpoch };
  }

  /** Say goodbye; nothing of the session opens afterwards. */
  async close() {
    members(await this.call('/api/session/close', new Map()), {});
    this.ratchetKey.fill(0);
  }
}

function openedAnswer(trafficKey, place, tag, answer) {
  if (answer.headers.get('Content-Type') !== SEALED) {
    accepted(answer);
    throw new Refusal('answer-not-authentic', 'An answer that should be sealed is not.');
  }
  const contentType = answer.headers.get('QFLARE-Content-Type') ?? '';
  const salt = answer.headers.get('QFLARE-Salt') ?? '';
  const plaintext = openAnswer(trafficKey, place, tag, {
    status: answer.status,
    contentType,
    salt,
    body: answer.body,
  });
  if (contentType === PROBLEM) throw refusalOf(answer.status, answer.headers, plaintext, true);
  demand(
    contentType === CBOR && answer.status === 200,
    'answer-not-authentic',
    'A sealed answer of an unknown kind.',
  );
  return plaintext;
}
