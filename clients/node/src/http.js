/** HTTP by Node's fetch: bounded answers, problems as refusals, retries (docs/protocol.md, section 4). */

import { setTimeout as sleep } from 'node:timers/promises';

import { concat, fromUtf8 } from './bytes.js';
import { decode, encode } from './cbor.js';
import { Refusal } from './refusal.js';

const RETRIED = new Set([429, 500, 502, 503, 504]);
const ATTEMPTS = 8;
const TIMEOUT_MILLISECONDS = 120_000;
const UNSEALED_BYTES = 7 * 1024 * 1024;

/** An HTTP answer. @typedef {{status: number, headers: Headers, body: Uint8Array}} Answer */

/** One server's address. */
export class Http {
  /** @param {string} server its address @param {(line: string) => void} [say] told of each retry */
  constructor(server, say = () => {}) {
    this.server = server.replace(/\/$/, '');
    this.say = say;
  }

  /** One exchange. `service-unavailable` where no answer comes, `message-too-large` for one above the bound. */
  async exchange(method, path, options = {}) {
    return this.exchangeAt(this.server + path, method, options);
  }

  async exchangeAt(address, method, { headers = {}, body, maximumBytes = UNSEALED_BYTES, redirect = 'error' }) {
    const signal = AbortSignal.timeout(TIMEOUT_MILLISECONDS);
    const sent = body === undefined || body.length === 0 ? undefined : body;
    try {
      const answer = await fetch(address, { method, headers, body: sent, redirect, signal });
      return { status: answer.status, headers: answer.headers, body: await bounded(answer, maximumBytes) };
    } catch (error) {
      if (error instanceof Refusal) throw error;
      const reason = error.cause?.code ?? error.name;
      throw new Refusal('service-unavailable', `No answer from ${new URL(address).origin}: ${reason}`, { status: 503 });
    }
  }

  /** Post an unsealed CBOR map and return the decoded answer; the same bytes again while an answer is lost. */
  async post(path, map) {
    return this.retrying(() => this.postOnce(path, map));
  }

  /** Post an unsealed CBOR map that the server answers once. */
  async postOnce(path, map) {
    const headers = { 'Content-Type': 'application/cbor' };
    const answer = await this.exchange('POST', path, { headers, body: encode(map) });
    return decode(accepted(answer).body);
  }

  /** Fetch a blob of a known size, from the server's blob store where it sends there (section 9.3). */
  async download(path, sizeBytes) {
    const answer = await this.retrying(async () => {
      const options = { maximumBytes: sizeBytes, redirect: 'manual' };
      const first = await this.exchange('GET', path, options);
      if (first.status !== 307) return accepted(first);
      const address = this.storeAddress(first.headers.get('Location') ?? '');
      return accepted(await this.exchangeAt(address, 'GET', { maximumBytes: sizeBytes }));
    });
    return answer.body;
  }

  /** An address with TLS, or without where the server itself is spoken to so; `service-unavailable` for others. */
  storeAddress(location) {
    const { protocol } = URL.canParse(location) ? new URL(location) : {};
    if (protocol === 'https:' || (protocol === 'http:' && this.server.startsWith('http:'))) return location;
    throw new Refusal('service-unavailable', 'The server sends to a place where this client does not go.', {
      status: 503,
    });
  }

  /** Try again what may pass, after Retry-After or with exponential backoff, and random jitter. */
  async retrying(action) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await action();
      } catch (error) {
        if (!(error instanceof Refusal) || !RETRIED.has(error.status) || attempt === ATTEMPTS) throw error;
        const asked = error.members.retry_after_seconds;
        const seconds = Number.isFinite(asked) ? Math.min(asked, 120) : 2 ** (attempt - 1);
        this.say(`${error.code}: again in ${seconds} s`);
        await sleep(1000 * seconds * (1 + Math.random() / 4));
      }
    }
  }
}

/** Pass a successful answer on and throw an unsealed refusal otherwise. @param {Answer} answer */
export function accepted(answer) {
  if (answer.status === 200) return answer;
  throw refusalOf(answer.status, answer.headers, answer.body, false);
}

/** The refusal of an answer's problem details (RFC 9457). */
export function refusalOf(status, headers, body, sealed) {
  const { type = '', detail = '', ...members } = problemOf(body);
  const after = headers.get('Retry-After');
  if (/^\d{1,6}$/.test(after ?? '')) members.retry_after_seconds ??= Number(after);
  const code = /^urn:qflare:problem:([a-z-]{1,64})$/.exec(type)?.[1];
  if (code === undefined)
    return new Refusal('service-unavailable', `HTTP status ${status} without a problem of this protocol.`, {
      status,
      members,
    });
  return new Refusal(code, String(detail), { status, sealed, members });
}

function problemOf(body) {
  try {
    const problem = JSON.parse(fromUtf8(body));
    return problem !== null && typeof problem === 'object' ? problem : {};
  } catch {
    return {};
  }
}

async function bounded(answer, maximumBytes) {
  const parts = [];
  let size = 0;
  for await (const part of answer.body ?? []) {
    size += part.length;
    if (size > maximumBytes) throw new Refusal('message-too-large', `An answer of more than ${maximumBytes} bytes.`);
    parts.push(part);
  }
  return concat(...parts);
}
