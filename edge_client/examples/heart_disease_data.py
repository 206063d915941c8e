"""UCI Heart Disease: the patients of four real hospitals, as rows that a model can learn from.

Janosi, Steinbrunn, Pfisterer, Detrano 1988 (CC BY 4.0): Cleveland 303, Hungary 294, Switzerland 123, Long
Beach 200 patients, 13 features, and whether a coronary vessel is narrowed by more than half.

Missing values are `?`, and zeros of what cannot be zero: Switzerland recorded every cholesterol as 0. Whole
columns are missing in some hospitals (`ca` and `thal` in three of them), so nothing is dropped and nothing is
estimated from other hospitals' patients: measures are standardised by constants that are written below and
public, a missing one becomes 0 with its own indicator 1, a missing yes or no lies halfway, and a missing
category leaves all of its columns 0.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.float32]

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
COLUMNS = (
    "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal",
    "num",
)  # fmt: skip
MEASURES = {
    "age": (54.0, 9.0), "trestbps": (132.0, 19.0), "chol": (247.0, 59.0), "thalach": (138.0, 26.0),
    "oldpeak": (0.9, 1.1), "ca": (0.7, 0.9),
}  # fmt: skip
"""Centre and scale by feature: rounded figures for adults who are examined for chest pain, the same everywhere."""
NEVER_ZERO = ("trestbps", "chol")
YES_OR_NO = ("sex", "fbs", "exang")
CATEGORIES = {"cp": (1, 2, 3, 4), "restecg": (0, 1, 2), "slope": (1, 2, 3), "thal": (3, 6, 7)}
FEATURES = 2 * len(MEASURES) + len(YES_OR_NO) + sum(map(len, CATEGORIES.values()))


@dataclass(frozen=True)
class Patients:
    """Rows of features, and 1.0 for the ill and 0.0 for the healthy."""

    features: Features
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.int64]) -> "Patients":
        """Return some of the patients."""
        return Patients(self.features[rows], self.labels[rows])


def read_hospital(folder: Path, hospital: str) -> Patients:
    """Return all patients of one of `HOSPITALS` from the file `processed.<hospital>.data`."""
    lines = (folder / f"processed.{hospital}.data").read_text(encoding="ascii").split()
    values = np.array([[_number(cell) for cell in line.split(",")] for line in lines])
    if values.shape[1:] != (len(COLUMNS),):
        raise ValueError(f"The file of {hospital} has not {len(COLUMNS)} columns.")
    return Patients(_encoded(dict(zip(COLUMNS, values.T, strict=True))), (values[:, -1] > 0).astype(np.float32))


def split(patients: Patients, seed: int, held_out_share: float = 1 / 3) -> tuple[Patients, Patients]:
    """Return training and held-out patients, of both classes in the same proportion."""
    generator, training, held_out = np.random.default_rng(seed), [], []
    for label in (0.0, 1.0):
        rows = generator.permutation(np.flatnonzero(patients.labels == label))
        cut = round(len(rows) * held_out_share)
        held_out.append(rows[:cut])
        training.append(rows[cut:])
    return patients.take(np.concatenate(training)), patients.take(np.concatenate(held_out))


def _number(cell: str) -> float:
    return float("nan") if cell == "?" else float(cell)


def _encoded(columns: dict[str, npt.NDArray[np.float64]]) -> Features:
    encoded = []
    for name, (centre, scale) in MEASURES.items():
        values = columns[name]
        if name in NEVER_ZERO:
            values = np.where(values == 0, np.nan, values)
        encoded += [np.nan_to_num((values - centre) / scale), np.isnan(values)]
    encoded += [np.nan_to_num(2 * columns[name] - 1) for name in YES_OR_NO]
    encoded += [columns[name] == category for name, categories in CATEGORIES.items() for category in categories]
    return np.stack(encoded, axis=1).astype(np.float32)
