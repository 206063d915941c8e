"""A model made while the updates are first read, where nothing in them can change how they are combined.

It leaves sealed under a key made for it alone. The key follows when every row has passed its checks
and the decision is recorded; until then what has left is noise to whoever feeds the enclave. Where the
decision turns out another one, the key is dropped and the second pass makes the model.
"""

import os

import numpy as np

from enclave.core.extent import Extent
from enclave.core.rules.combination import Combination
from enclave.core.second_pass import model_writer, new_weights
from enclave.core.sources import Courier, Sources
from enclave.core.streams import AnyRow, Float32
from qflare_protocol.chunked import KEY_BYTES, ChunkCipher, ChunkWriter
from qflare_protocol.errors import Refusal

SEALED_MODEL = "sealed-model"


class ForeseenModel:
    """The whole model as `combination` makes it of the rows; the base model's row is read along with them."""

    def __init__(self, combination: Combination, sources: Sources, extent: Extent, courier: Courier) -> None:
        self._combination, self._courier = combination, courier
        self._base: AnyRow = sources.base_columns(extent)()
        self._key = os.urandom(KEY_BYTES)
        self._sealed = ChunkWriter(ChunkCipher.fresh(self._key), lambda piece: courier.write(SEALED_MODEL, piece))
        self._model = model_writer(sources, extent.shape, self._sealed.write)
        self._given_up = False

    def take(self, block: Float32) -> None:
        """Take the next (n, w) block of all rows."""
        if self._given_up:
            return
        try:
            base = np.empty(block.shape[1], dtype=np.float32)
            self._base.read_into(base)
            self._model.write(new_weights(base, self._combination.combine(block)))
        except Refusal:
            self.give_up()

    def give_up(self) -> None:
        """Make no more of it: a row does not hold."""
        self._given_up = True

    def release(self, decided: Combination) -> bytes | None:
        """Give out the key and return the model's digest, or return None where this is not the decided model.

        To be called when the decision is recorded.
        """
        if self._given_up or decided != self._combination:
            return None
        try:
            self._base.finish()
            self._model.finish()
        except Refusal:
            return None
        self._sealed.finish()
        self._courier.open_sealed_model(self._key)
        return self._model.digest()
