"""Plots as SVG, laid out on the server: scales, forms, and figures that have their numbers in a table beneath."""
