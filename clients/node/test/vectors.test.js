/** Every value of docs/vectors recomputes from the others. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { hex } from '../src/bytes.js';
import { decode, encode, Float } from '../src/cbor.js';
import { NotServed, readVectors, Steps, vectorNames } from './vector-files.js';

const names = vectorNames();
const skip = names.length === 0 && 'docs/vectors is not beside this folder';

test('the vectors of the protocol are there', { skip }, () => {
  assert.ok(names.includes('handshake') && names.includes('encoding'));
});

for (const name of names) {
  for (const { name: caseName, values, steps } of readVectors(name).cases) {
    if (steps.length === 0) continue;
    test(`${name}: ${caseName}`, (t) => {
      const at = new Steps(values);
      for (const step of steps) runStep(t, at, step);
    });
  }
}

/** Run a step and compare; one whose algorithm is not served is named, and its stored value believed. */
function runStep(t, at, step) {
  let given;
  try {
    given = at.run(step);
  } catch (error) {
    if (!(error instanceof NotServed)) throw error;
    t.diagnostic(`skipped: ${error.message}`);
    at.unknown.add(step.gives);
    return;
  }
  if (step.gives === undefined) return;
  if (step.gives in at.values) assert.equal(hex(given), hex(at.values[step.gives]), step.gives);
  at.values[step.gives] = given;
}

test('an encoding of every CBOR value decodes to the value of its diagnostic notation', { skip }, () => {
  for (const { values } of readVectors('encoding').cases) {
    const decoded = decode(values.cbor);
    assert.equal(
      diagnostic(decoded),
      values.diagnostic.replace(/[0-9.]+e[+-][0-9]+/, (text) => `${Number(text)}`),
    );
    assert.equal(hex(encode(decoded)), hex(values.cbor));
  }
});

function diagnostic(value) {
  if (value instanceof Float) return floatNotation(value.value);
  if (value instanceof Uint8Array) return `h'${hex(value)}'`;
  if (Array.isArray(value)) return `[${value.map(diagnostic).join(', ')}]`;
  if (value instanceof Map) return `{${[...value].map((entry) => entry.map(diagnostic).join(': ')).join(', ')}}`;
  return typeof value === 'string' ? JSON.stringify(value) : `${value}`;
}

function floatNotation(value) {
  if (Object.is(value, -0)) return '-0.0';
  return Number.isInteger(value) && Math.abs(value) < 1e16 ? value.toFixed(1) : `${value}`;
}
