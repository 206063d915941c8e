"""`manage.py demo`: one complete federated training with real processes, real data and two attackers."""
