"""Finds ratios by comparing images: candidates are proposed, somebody or something says which are best, and so on.

``space`` says what varies, ``parts`` how it gets into a recipe, ``steering`` proposes candidates and learns from what
is said of them.
"""
