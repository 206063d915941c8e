"""Complete examples of training code on real data."""
