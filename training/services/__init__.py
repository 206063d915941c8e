"""The verbs of training: the only place that changes federations, rounds, updates and model versions."""
