"""The ledger of a federation's noised releases: every model that leaves the enclave is entered, published or not."""

from datetime import datetime
from typing import Self

from django.db import transaction
from django.utils import timezone

from audit.services import record_event
from training import privacy
from training.models import Federation, ModelVersion, PrivacyRelease, Round
from training.services.federations import ModelSealing, SealedModel, next_version_number
from training.services.privacy_budget import require_budget
from training.services.rounds import event_payload


class LeavingModel:
    """A model on its way out of the enclave, encrypted as it comes; its first piece is a release.

    A crash or a lost lease after it has left does not make it unseen: the next attempt is entered as a
    release of its own, although an enclave repeats its noise. The account errs on the safe side.
    """

    def __init__(self, round_: Round) -> None:
        self.release: PrivacyRelease | None = None
        self._round, self._has_left = round_, False
        self._sealing = ModelSealing(round_.federation_id, next_version_number(round_.federation_id))

    def __enter__(self) -> Self:
        self._sealing.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._sealing.__exit__(*exception)

    def take(self, piece: bytes) -> None:
        """Keep the next piece. Raises `Refusal("privacy-budget-spent")` before anything is kept."""
        if not self._has_left:
            self.release = charge_release(self._round, now=timezone.now())
            self._has_left = True
        self._sealing.write(piece)

    def seal(self) -> SealedModel:
        """Put the model, which has left as a whole, on stable storage."""
        return self._sealing.seal()


def charge_release(round_: Round, *, now: datetime) -> PrivacyRelease | None:
    """Enter a release into the federation's ledger; None where the round's policy adds no noise.

    Raises `Refusal("privacy-budget-spent")`. Two attempts at once wait for one another at the
    federation's row.
    """
    noise = privacy.noise_multiplier_of(round_.aggregation_policy())
    if noise is None:
        return None
    with transaction.atomic():
        federation = Federation.objects.select_for_update(of=("self",), no_key=True).get(id=round_.federation_id)
        spent = federation.noise_of_releases()
        require_budget(federation, noise)
        release = PrivacyRelease.objects.create(
            federation=federation,
            number=len(spent) + 1,
            round=round_,
            noise_multiplier=noise,
            delta=federation.privacy_delta,
            epsilon_spent=privacy.epsilon_of([*spent, noise], federation.privacy_delta),
            released_at=now,
        )
        record_event("privacy.released", actor="system", payload=event_payload(round_) | release.statement())
    return release


def publish_release(release: PrivacyRelease | None, version: ModelVersion) -> None:
    """Tie a release to the version that was made of it, inside the transaction of its publication."""
    if release is not None:
        PrivacyRelease.objects.filter(id=release.id).update(version=version)
