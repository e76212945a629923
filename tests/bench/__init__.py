"""Benchmarks: how fast the whole system is, as ratios to what one would use instead.

`make bench` runs all rows, `BENCH=B5 make bench` one. A row measures us and the other way in
turns, in one run, on the same lines and the same private servers, and looks at what is in the
table after each measure: a figure of a wrong table is none. What is measured and what it means
is written in docs/benchmarks.md.
"""
