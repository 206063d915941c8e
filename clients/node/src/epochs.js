/** The chain of epoch keys of one generation (docs/protocol.md, section 7.1). */

import { u8 } from './bytes.js';
import { expand } from './encoding.js';

/** The chain, which moves on and never back. */
export class EpochChain {
  /** @param {Uint8Array} chainKey 32 bytes @param {number} epoch */
  constructor(chainKey, epoch) {
    this.key = chainKey;
    this.epoch = epoch;
  }

  /** Move on to the epoch, step by step; each key that is left behind is erased. */
  advance(epoch) {
    while (this.epoch < epoch) {
      const next = expand(this.key, 'next epoch', [u8(this.epoch + 1)]);
      this.key.fill(0);
      this.key = next;
      this.epoch += 1;
    }
  }

  /** The traffic key of the current epoch, 32 bytes. */
  trafficKey() {
    return expand(this.key, 'epoch traffic', [u8(this.epoch)]);
  }
}
