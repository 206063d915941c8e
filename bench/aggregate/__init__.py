"""Aggregation beside byzfl and Flower, and beside what the machine's memory and arithmetic allow."""
