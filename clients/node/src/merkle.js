/** Proofs in Merkle trees (RFC 9162 section 2.1; docs/protocol.md, sections 12 and 13.2). */

import { sha256 } from '@noble/hashes/sha2.js';

import { concat, equal } from './bytes.js';
import { demand } from './refusal.js';

const node = (left, right) => sha256(concat(Uint8Array.of(1), left, right));

const leaf = (data) => sha256(concat(Uint8Array.of(0), data));

/**
 * Check that `data` is leaf `index` of the tree of `size` leaves; `proof-refused` otherwise.
 * @param {Uint8Array} data @param {number} index @param {number} size @param {Uint8Array[]} path
 * @param {Uint8Array} root
 */
export function verifyInclusion(data, index, size, path, root) {
  const holds = index < size && equal(rootOf(leaf(data), BigInt(index), BigInt(size), path), root);
  demand(holds, 'proof-refused', 'An inclusion proof does not hold.');
}

function rootOf(computed, index, size, path) {
  let [position, last] = [index, size - 1n];
  for (const sibling of path) {
    demand(last !== 0n, 'proof-refused', 'An inclusion proof is too long.');
    if (position & 1n || position === last) {
      computed = node(sibling, computed);
      while (!(position & 1n) && position !== 0n) [position, last] = [position >> 1n, last >> 1n];
    } else {
      computed = node(computed, sibling);
    }
    [position, last] = [position >> 1n, last >> 1n];
  }
  demand(last === 0n, 'proof-refused', 'An inclusion proof is too short.');
  return computed;
}

/**
 * Check that a tree of `newSize` leaves extends the one of `oldSize`; `proof-refused` otherwise.
 * @param {number} oldSize @param {Uint8Array} oldRoot @param {number} newSize @param {Uint8Array} newRoot
 * @param {Uint8Array[]} proof
 */
export function verifyConsistency(oldSize, oldRoot, newSize, newRoot, proof) {
  const holds =
    oldSize === newSize
      ? oldSize > 0 && proof.length === 0 && equal(oldRoot, newRoot)
      : oldSize > 0 &&
        oldSize < newSize &&
        proof.length > 0 &&
        proofHolds(BigInt(oldSize), oldRoot, BigInt(newSize), newRoot, proof);
  demand(holds, 'proof-refused', 'A consistency proof does not hold.');
}

// Sizes are BigInt: a tree may have more than 2^31 leaves, and shifts of numbers are of 32 bits.
function proofHolds(oldSize, oldRoot, newSize, newRoot, proof) {
  let [first, second] = [oldSize - 1n, newSize - 1n];
  while (first & 1n) [first, second] = [first >> 1n, second >> 1n];
  const path = (oldSize & (oldSize - 1n)) === 0n ? [oldRoot, ...proof] : proof;
  let [ofOld, ofNew] = [path[0], path[0]];
  for (const sibling of path.slice(1)) {
    if (second === 0n) return false;
    if (first & 1n || first === second) {
      [ofOld, ofNew] = [node(sibling, ofOld), node(sibling, ofNew)];
      while (!(first & 1n) && first !== 0n) [first, second] = [first >> 1n, second >> 1n];
    } else {
      ofNew = node(ofNew, sibling);
    }
    [first, second] = [first >> 1n, second >> 1n];
  }
  return second === 0n && equal(ofOld, oldRoot) && equal(ofNew, newRoot);
}
