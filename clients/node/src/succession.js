/** Identity succession: how a server's identity key names the next one (docs/protocol.md, section 6.8). */

import { checkPublicKey, SIGNATURE_KEY_BYTES, SUITE } from './algorithms.js';
import { equal } from './bytes.js';
import { unverifiedMembers, verify1 } from './cose.js';
import { digest, fingerprint } from './encoding.js';
import { bytes, decodeMembers, exactly, integer } from './fields.js';
import { demand, Refusal } from './refusal.js';

const MAXIMUM_STATEMENTS = 32;
const MAXIMUM_STATEMENT_BYTES = 192 * 1024;
const CODE = 'server-not-authenticated';
const PART = bytes(1, MAXIMUM_STATEMENT_BYTES);
const MEMBERS = {
  algorithm: exactly(SUITE.signature),
  successor_key: bytes(SIGNATURE_KEY_BYTES),
  predecessor_key: bytes(SIGNATURE_KEY_BYTES),
  rotated_at: integer(0),
};

/** What a `succession` member may look like, for the readers of E2 and M2. */
export const SUCCESSION = (value, name) => {
  const fits = Array.isArray(value) && value.every((item) => item instanceof Uint8Array);
  demand(fits, 'malformed-message', `${name} is not a list of bytes.`);
  return value;
};

/**
 * Follow the statements from the key with the pinned fingerprint; `server-not-authenticated` unless each step holds.
 * Without statements there is nothing to follow, and the caller compares fingerprints.
 * @param {Uint8Array} pinned fingerprint @param {Uint8Array[]} statements @returns {Uint8Array | null} the last key
 */
export function follow(pinned, statements) {
  demand(statements.length <= MAXIMUM_STATEMENTS, CODE, 'The identity succession is too long.');
  let [reached, key] = [pinned, null];
  for (const statement of statements) {
    key = step(reached, statement);
    reached = fingerprint(SUITE.signature, key);
  }
  return key;
}

/**
 * Follow the statements of the log's keys (section 13.3) from the pinned key, which may stand anywhere among them.
 * @param {Uint8Array} pinned key @param {Uint8Array[]} statements @returns {Uint8Array} the log's current key
 */
export function followLog(pinned, statements) {
  demand(statements.length <= MAXIMUM_STATEMENTS, CODE, 'The succession of the log is too long.');
  const at = statements.findIndex((statement) => equal(predecessorOf(statement), pinned));
  return at < 0 ? pinned : follow(fingerprint(SUITE.signature, pinned), statements.slice(at));
}

function predecessorOf(statement) {
  demand(statement.length <= MAXIMUM_STATEMENT_BYTES, CODE, 'A succession statement of the log is too large.');
  const { succession } = decodeMembers(statement, { succession: PART, acceptance: PART });
  return unverifiedMembers(succession, MEMBERS).predecessor_key;
}

function step(reached, statement) {
  demand(statement.length <= MAXIMUM_STATEMENT_BYTES, CODE, 'An identity succession statement is too large.');
  try {
    return verifiedSuccessor(reached, statement);
  } catch (error) {
    if (error instanceof Refusal) throw new Refusal(CODE, `An identity succession does not hold: ${error.detail}`);
    throw error;
  }
}

function verifiedSuccessor(reached, statement) {
  const { succession, acceptance } = decodeMembers(statement, { succession: PART, acceptance: PART });
  // Only a fingerprint may be pinned, so the old key comes from the statement and has to match it.
  const { predecessor_key: predecessor } = unverifiedMembers(succession, MEMBERS);
  demand(equal(fingerprint(SUITE.signature, predecessor), reached), CODE, 'It does not begin at the pinned key.');
  const { successor_key: successor } = verify1(predecessor, 'identity succession', succession, MEMBERS);
  checkPublicKey(successor, SIGNATURE_KEY_BYTES);
  const boundTo = digest('identity succession', succession);
  const accepted = verify1(successor, 'identity acceptance', acceptance, { predecessor: bytes(32) }, { boundTo });
  demand(equal(accepted.predecessor, reached), CODE, 'The new key accepts another predecessor.');
  return successor;
}
