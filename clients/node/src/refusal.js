/** Refusals: what the server answers as a problem, and what this client refuses by itself. */

/** A request, answer or key that is refused: `code` of the protocol's appendix A and a sentence. */
export class Refusal extends Error {
  /**
   * @param {string} code slug of docs/protocol.md, appendix A
   * @param {string} detail a sentence for people
   * @param {{status?: number, sealed?: boolean, members?: Record<string, unknown>}} [from] of an answer: its HTTP
   *   status, whether it was sealed (and so is authentic), and the problem's further members
   */
  constructor(code, detail, from = {}) {
    super(`${code}: ${detail}`);
    this.name = 'Refusal';
    this.code = code;
    this.detail = detail;
    this.status = from.status ?? null;
    this.sealed = from.sealed ?? false;
    this.members = from.members ?? {};
  }
}

/** Throw `Refusal(code, detail)` unless the condition holds. */
export function demand(condition, code, detail) {
  if (!condition) throw new Refusal(code, detail);
}
