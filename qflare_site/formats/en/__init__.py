"""Formats for the one language of the site."""
