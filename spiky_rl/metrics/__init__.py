"""Measures of a running network: spikes, operations, energy; and videos of them.

`meter.CostMeter` measures a network's pass, `energy` estimates its energy.
"""
