"""Proposers: class-agnostic masks of an image, for methods that classify masks and for votes inside masks.

A proposer of the list is found by name with ``loading.load_proposer``; each has options of its own.
"""
