"""Test builds in which one thing that keeps a promise is switched off: the suite has to fail.

python -m tests.sabotage            all of them, as a table
python -m tests.sabotage NAME …     some
"""
