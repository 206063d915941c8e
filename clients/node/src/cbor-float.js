/** Floating-point numbers of CBOR in the shortest of half, single and double precision that keeps the value. */

/** Encode a number with its CBOR header; NaN is `f97e00`. @returns {Uint8Array} */
export function encodeFloat(value) {
  if (Number.isNaN(value)) return Uint8Array.of(0xf9, 0x7e, 0x00);
  if (!Object.is(Math.fround(value), value)) {
    const double = new Uint8Array(9);
    double[0] = 0xfb;
    new DataView(double.buffer).setFloat64(1, value);
    return double;
  }
  const single = new Uint8Array(5);
  single[0] = 0xfa;
  const view = new DataView(single.buffer);
  view.setFloat32(1, value);
  const half = halfOf(view.getUint32(1));
  return half === null ? single : Uint8Array.of(0xf9, half >> 8, half & 255);
}

/** Decode an item of header f9, fa or fb. @param {Uint8Array} item @returns {number} */
export function decodeFloat(item) {
  const view = new DataView(item.buffer, item.byteOffset, item.length);
  if (item[0] === 0xf9) return fromHalf(view.getUint16(1));
  return item[0] === 0xfa ? view.getFloat32(1) : view.getFloat64(1);
}

/** The half-precision bits of a single-precision number, or null where it does not fit without loss. */
function halfOf(bits) {
  const sign = (bits >>> 16) & 0x8000;
  const exponent = ((bits >>> 23) & 0xff) - 127;
  const fraction = bits & 0x7fffff;
  if ((bits & 0x7fffffff) === 0) return sign;
  if (exponent === 128) return fraction === 0 ? sign | 0x7c00 : null;
  if (exponent > 15 || exponent < -24) return null;
  // Below 2^-14 a half is subnormal: the leading one is written out and the fraction loses a bit per step.
  const dropped = exponent >= -14 ? 13 : -1 - exponent;
  const significand = exponent >= -14 ? fraction : fraction | 0x800000;
  if (significand & ((1 << dropped) - 1)) return null;
  return sign | (exponent >= -14 ? (exponent + 15) << 10 : 0) | (significand >>> dropped);
}

function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : (fraction / 1024) * 2 ** -14);
}
