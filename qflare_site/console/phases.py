"""The phases of a round in words, in their order."""

PHASES = {
    "prepare": "Preparing the enclave",
    "collect": "Collecting updates",
    "aggregate": "Aggregating",
    "publish": "Publishing the model",
    "evaluate": "Evaluating the model",
}
"""What each step is called (`training.models.RoundStep.ORDER`)."""
