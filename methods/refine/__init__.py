"""Refiners: from score maps and an image to score maps that follow the image's edges.

A refiner knows neither methods nor vocabularies: it takes maps at any size, one chunk of queries at a time.
"""
