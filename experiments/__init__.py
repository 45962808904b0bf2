"""The paper's tables and figures, run anew: ``python -m experiments.table1`` and its neighbours."""
