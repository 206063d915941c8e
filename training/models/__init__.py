"""What is trained: federations, their rounds, each device's part in them, and the model versions."""

from training.models.federation import Federation, FederationState, ModelVersion, VersionEvaluation
from training.models.participation import WAITING, Participation, ParticipationState, Update, Upload
from training.models.round import (
    LEASED,
    UNFINISHED,
    CarriedRow,
    PrivacyRelease,
    RangeOutput,
    RangeStep,
    RangeStepKind,
    RangeStepQuerySet,
    Round,
    RoundQuerySet,
    RoundState,
    RoundStep,
)

__all__ = [
    "CarriedRow",
    "Federation",
    "FederationState",
    "LEASED",
    "ModelVersion",
    "Participation",
    "ParticipationState",
    "PrivacyRelease",
    "RangeOutput",
    "RangeStep",
    "RangeStepKind",
    "RangeStepQuerySet",
    "Round",
    "RoundQuerySet",
    "RoundState",
    "RoundStep",
    "UNFINISHED",
    "Update",
    "Upload",
    "VersionEvaluation",
    "WAITING",
]
