import assert from 'node:assert/strict';
import { test } from 'node:test';
import { workOf } from '../src/models.js';

const bytesOf = (length) => new Uint8Array(length).fill(7);
const assignment = (further = []) =>
  new Map([
    ['round_id', bytesOf(16)],
    ['round_number', 3],
    ['federation_id', bytesOf(16)],
    ['federation', 'digits'],
    ['base_version', 2],
    ['base_model_digest', bytesOf(32)],
    ['evidence', bytesOf(100)],
    ['trainer', 'm:T'],
    ['trainer_parameters', new Map()],
    ['deadline', 1],
    ['signature_key', bytesOf(32)],
    ...further,
  ]);
const work = (round, further = []) => new Map([['round', round], ['ask_again_seconds', 0], ...further]);

test('an assignment may name older bases', () => {
  const round = workOf(work(assignment([['older_bases', [[1, bytesOf(32), 1]]]]))).round;
  assert.equal(round.older_bases[0].staleness, 1);
});

test('an older base out of form is refused', () => {
  for (const row of [[1, bytesOf(32)], [1, bytesOf(31), 1], [1, bytesOf(32), 0], 'none']) {
    assert.throws(() => workOf(work(assignment([['older_bases', [row]]]))));
  }
});

test('an answer may ask for an evaluation, which this client leaves undone', () => {
  const evaluation = new Map([['version', 3]]);
  assert.equal(workOf(work(null, [['evaluation', evaluation]])).round, null);
});

test('an answer with a member that the protocol does not have is refused', () => {
  assert.throws(() => workOf(work(null, [['surprise', 1]])));
});

test('an answer may tell the client to wait for an hour, and no longer', () => {
  const answer = (seconds) => new Map([['round', null], ['ask_again_seconds', seconds]]);
  assert.equal(workOf(answer(3600)).ask_again_seconds, 3600);
  for (const seconds of [-1, 3601, 0.5]) assert.throws(() => workOf(answer(seconds)));
});

test('an answer may say in milliseconds when a round is about to open', () => {
  assert.equal(workOf(work(null, [['ask_again_milliseconds', 200]])).ask_again_milliseconds, 200);
  assert.throws(() => workOf(work(null, [['ask_again_milliseconds', 0]])));
});
