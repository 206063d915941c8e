/** The JSON of a safetensors header: objects (as Map), lists, texts and whole numbers, no member named twice. */

import { Refusal } from './refusal.js';

const TOKEN = /[ \t\n\r]*(?:([{}[\],:])|("(?:[^"\\\u0000-\u001f]|\\.)*")|(0|[1-9][0-9]{0,15})(?![0-9.eE]))/y;
const MAXIMUM_NESTING = 4;

/** @param {string} text @param {string} code of the Refusal for anything else @returns {any} */
export function parseStrictJson(text, code) {
  const parser = new Parser(text, code);
  const value = parser.value(parser.token(), 0);
  if (text.slice(parser.at).trim() !== '') parser.refuse();
  return value;
}

class Parser {
  constructor(text, code) {
    this.text = text;
    this.code = code;
    this.at = 0;
  }

  refuse() {
    throw new Refusal(this.code, 'A header is not the JSON of a safetensors container.');
  }

  token() {
    TOKEN.lastIndex = this.at;
    const match = TOKEN.exec(this.text);
    if (match === null) this.refuse();
    this.at = TOKEN.lastIndex;
    return match;
  }

  value([, mark, string, number], depth) {
    if (string !== undefined) return this.string(string);
    if (number !== undefined) return Number(number);
    if (depth === MAXIMUM_NESTING) this.refuse();
    if (mark === '{') return this.object(depth + 1);
    return mark === '[' ? this.list(depth + 1) : this.refuse();
  }

  string(quoted) {
    try {
      return JSON.parse(quoted);
    } catch {
      return this.refuse();
    }
  }

  object(depth) {
    const members = new Map();
    for (let token = this.token(); token[1] !== '}' || members.size > 0; token = this.token()) {
      const key = token[2] === undefined ? this.refuse() : this.string(token[2]);
      if (members.has(key) || this.token()[1] !== ':') this.refuse();
      members.set(key, this.value(this.token(), depth));
      if (this.ends('}')) break;
    }
    return members;
  }

  list(depth) {
    const items = [];
    for (let token = this.token(); token[1] !== ']' || items.length > 0; token = this.token()) {
      items.push(this.value(token, depth));
      if (this.ends(']')) break;
    }
    return items;
  }

  /** Whether the closing mark comes next, rather than a comma and another item. */
  ends(mark) {
    const found = this.token()[1];
    if (found !== mark && found !== ',') this.refuse();
    return found === mark;
  }
}
