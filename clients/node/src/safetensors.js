/** Models: safetensors containers of float32, read strictly (docs/protocol.md, section 9.4). */

import { concat, fromUtf8, utf8 } from './bytes.js';
import { text } from './fields.js';
import { demand, Refusal } from './refusal.js';
import { parseStrictJson } from './strict-json.js';

const CODE = 'invalid-tensors';
const MAXIMUM_HEADER_BYTES = 2 ** 20;
const name = text(1, 256);

/** @typedef {{name: string, shape: number[], values: Float32Array}} Tensor */

/** Read a container in the order of its data; `invalid-tensors` unless it is one. @returns {Tensor[]} */
export function decodeTensors(container) {
  const [header, data] = split(container);
  demand(header instanceof Map, CODE, "A model's header is not a JSON object.");
  checkMetadata(header.get('__metadata__') ?? new Map());
  header.delete('__metadata__');
  demand(header.size >= 1 && header.size <= 4096, CODE, 'A model has 1 to 4096 tensors.');
  const layout = [...header]
    .map(([key, entry]) => layoutOf(key, entry))
    .sort((a, b) => a.begin - b.begin || a.end - b.end);
  let at = 0;
  for (const tensor of layout) {
    demand(tensor.begin === at, CODE, 'The data of a model has a hole or an overlap.');
    at = tensor.end;
  }
  demand(at === data.length, CODE, 'The data of a model are shorter or longer than its header says.');
  return layout.map(({ name, shape, begin, end }) => ({ name, shape, values: floats(data.subarray(begin, end)) }));
}

function split(container) {
  demand(container.length >= 10, CODE, 'A model is too short.');
  const size = new DataView(container.buffer, container.byteOffset).getBigUint64(0, true);
  demand(
    size >= 2n && size <= BigInt(Math.min(MAXIMUM_HEADER_BYTES, container.length - 8)),
    CODE,
    "A model's header has an impossible length.",
  );
  const end = 8 + Number(size);
  const json = fromUtf8(container.subarray(8, end));
  demand(json.startsWith('{'), CODE, "A model's header is not a JSON object.");
  return [parseStrictJson(json, CODE), container.subarray(end)];
}

function layoutOf(key, entry) {
  checkName(key);
  const exact = entry instanceof Map && [...entry.keys()].sort().join() === 'data_offsets,dtype,shape';
  demand(exact && entry.get('dtype') === 'F32', CODE, 'A tensor is not F32, or has other members.');
  const [shape, offsets] = [entry.get('shape'), entry.get('data_offsets')];
  const natural = (value) => Number.isSafeInteger(value) && value >= 0;
  demand(
    Array.isArray(shape) && shape.length <= 8 && shape.every(natural),
    CODE,
    'A tensor has an impossible shape.',
  );
  demand(
    Array.isArray(offsets) && offsets.length === 2 && offsets.every(natural),
    CODE,
    'A tensor has impossible offsets.',
  );
  const size = shape.reduce((product, length) => product * length, 4);
  demand(offsets[1] - offsets[0] === size, CODE, "A tensor's offsets do not fit its shape.");
  return { name: key, shape, begin: offsets[0], end: offsets[1] };
}

function checkName(key) {
  demand(utf8(key).length <= 256, CODE, 'The name of a tensor has more than 256 bytes.');
  name(key, 'the name of a tensor');
}

function checkMetadata(metadata) {
  const texts = metadata instanceof Map && [...metadata.values()].every((value) => typeof value === 'string');
  demand(texts && metadata.size <= 16, CODE, "A model's metadata are not at most 16 texts.");
}

function floats(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  return Float32Array.from({ length: data.length / 4 }, (_, index) => view.getFloat32(4 * index, true));
}

/** Write a container of these tensors in this order. @param {Tensor[]} tensors @returns {Uint8Array} */
export function encodeTensors(tensors) {
  // Written member by member: an object of JavaScript would move names such as "0" to the front.
  const entries = [];
  let at = 0;
  for (const { name: key, shape, values } of tensors) {
    const end = at + 4 * values.length;
    entries.push(`${JSON.stringify(key)}:${JSON.stringify({ dtype: 'F32', shape, data_offsets: [at, end] })}`);
    at = end;
  }
  const json = utf8(`{${entries.join()}}`);
  const padded = concat(json, new Uint8Array(-json.length & 7).fill(0x20));
  const length = new Uint8Array(8);
  new DataView(length.buffer).setUint32(0, padded.length, true);
  return concat(length, padded, ...tensors.map(({ values }) => littleEndian(values)));
}

function littleEndian(values) {
  const bytes = new Uint8Array(4 * values.length);
  const view = new DataView(bytes.buffer);
  for (const [index, value] of values.entries()) {
    if (!Number.isFinite(value)) throw new Refusal(CODE, 'A tensor holds a number that is not finite.');
    view.setFloat32(4 * index, value, true);
  }
  return bytes;
}
