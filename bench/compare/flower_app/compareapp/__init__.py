"""The digits of `edge_client.examples` in Flower."""
