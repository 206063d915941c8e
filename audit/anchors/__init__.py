"""Anchors: places outside this house at which checkpoints are laid down, so that a rewritten log is found out.

Each kind is a class with `publish` and `verify`; `QFLARE_ANCHORS` names those in use and their settings.
"""

from audit.anchors.interface import Anchor, AnchorError
from audit.anchors.registry import AnchorPlan, configured_anchors

__all__ = ["Anchor", "AnchorError", "AnchorPlan", "configured_anchors"]
