"""What the result says of each update, from what the pipeline decided."""

from collections.abc import Sequence

from enclave.core.inputs import Candidate
from enclave.core.rules.pipeline import Decision
from qflare_protocol.round_verdicts import SCREENING_REASONS, Scores, UpdateVerdict

SIGNIFICANT_DIGITS = 6


def pipeline_verdicts(
    candidates: Sequence[Candidate], decision: Decision, *, with_scores: bool, with_cosines: bool
) -> list[UpdateVerdict]:
    """Return one verdict for each candidate; scores stay inside where the round is a private release."""
    verdicts = []
    for index, candidate in enumerate(candidates):
        reason = decision.reasons.get(index)
        detail = None if reason is None else SCREENING_REASONS[reason]
        scores = _scores(decision, index, with_cosines=with_cosines) if with_scores else None
        verdicts.append(candidate.verdict(reason, detail, scores))
    return verdicts


def public_verdict(verdict: UpdateVerdict) -> dict[str, str | bool | None]:
    """Return what a refused round tells of an update, as JSON values."""
    return {"device_id": verdict.device_id.hex(), "accepted": verdict.accepted, "reason": verdict.reason}


def _scores(decision: Decision, index: int, *, with_cosines: bool) -> Scores:
    return Scores(
        norm=_rounded(decision.norms[index]),
        norm_ratio=_rounded(decision.norm_ratios[index]),
        cosine=_rounded(decision.cosines[index]) if with_cosines else None,
        weight=_rounded(decision.shares[index]),
    )


def _rounded(value: float) -> float:
    """Return the score to six digits: what lies below may differ between processors' BLAS kernels."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
