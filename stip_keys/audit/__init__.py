"""Attacks the user's own bundles, and measures what each party can recover of prompts and keys.

attack.py defines an attack and what it is given. attacks/ holds the attacks, solvers/ what they
share, evidence/ makes the traffic that they attack and the truth that they are measured by.
"""
