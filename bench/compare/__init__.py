"""The same model, data, split and rounds in Flower and in QFLARE, each as it is deployed: `python -m bench.compare`.

Flower runs its deployment engine (SuperLink, one SuperNode per device) with TLS and SuperNode authentication on;
QFLARE runs all processes of the embedded profile with everything on. Both train `edge_client.examples.digits`.
"""
