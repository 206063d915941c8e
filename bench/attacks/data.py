"""The images to learn from: MNIST where its files are, else scikit-learn's digits."""

import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_client.examples.digits_data import LabelledImages, held_out, shard

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

CLASSES = 10
SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
IDX_UNSIGNED_BYTES = 0x08


@dataclass(frozen=True)
class Images:
    """Images as rows of pixels from 0 to 255, with their classes."""

    pixels: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageData:
    """What is trained on, what is held out, and where both are from."""

    name: str
    training: Images
    held_out: Images


def data_folder() -> Path:
    """Return where data sets are looked for: `QFLARE_DATA`, else `../shared/data` beside the clone."""
    return Path(os.environ.get("QFLARE_DATA") or SHARED_DATA)


def load_images(folder: Path | None = None) -> ImageData:
    """Return MNIST where the folder has it, else the digits; `name` says which it is."""
    mnist = (folder or data_folder()) / "mnist"
    return load_mnist(mnist) if mnist.is_dir() else load_digits()


def load_mnist(folder: Path) -> ImageData:
    """Return MNIST (LeCun, Cortes, Burges 1998) from its four idx files, compressed or not."""
    parts = []
    for prefix in ("train", "t10k"):
        pixels = read_idx(_idx_file(folder, f"{prefix}-images-idx3-ubyte"))
        labels = read_idx(_idx_file(folder, f"{prefix}-labels-idx1-ubyte")).astype(np.int64)
        if len(pixels) != len(labels):
            raise ValueError(f"{folder} has {len(pixels)} images and {len(labels)} labels of {prefix}.")
        parts.append(Images(pixels.reshape(len(pixels), -1), labels))
    return ImageData("MNIST", *parts)


def read_idx(path: Path) -> Pixels:
    """Return the array of an idx file of unsigned bytes.

    Its head is two zero bytes, a type, the number of dimensions, and each dimension as 4 big-endian bytes.
    """
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    zeros, kind, dimensions = content[:2], content[2], content[3]
    start = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:start], dtype=">u4").tolist())
    if zeros != b"\0\0" or kind != IDX_UNSIGNED_BYTES or len(content) - start != np.prod(shape):
        raise ValueError(f"{path} is no idx file of unsigned bytes.")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def load_digits() -> ImageData:
    """Return scikit-learn's 1,797 handwritten digits of 8 by 8 pixels as the demo splits them."""
    parts = shard(0, 1, alpha=1.0, seed=0), held_out(0)
    return ImageData("scikit-learn's digits", *(_as_images(part) for part in parts))


def _as_images(part: LabelledImages) -> Images:
    return Images(np.rint(part.features * 255).astype(np.uint8), part.labels)


def _idx_file(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"
