/** A stand-in for training code: it does not train. */

/** Adds the same small step to every weight, so that what a round makes of it is known exactly. It learns nothing. */
export class ConstantStepTrainer {
  /** @param {number} scale the step @param {number} sampleCount the weight that the update claims */
  constructor(scale, sampleCount) {
    this.scale = scale;
    this.sampleCount = sampleCount;
  }

  /** The delta of a model: new weights minus base weights. @param {import('./safetensors.js').Tensor[]} model */
  delta(model) {
    return model.map(({ name, shape, values }) => ({
      name,
      shape,
      values: new Float32Array(values.length).fill(this.scale),
    }));
  }
}
