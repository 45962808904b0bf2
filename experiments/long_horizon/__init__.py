"""Long horizons: ETTh1, seven variables, 336 hours in, up to 720 hours (a month) out, MSE against DILATE.

    python -m experiments.long_horizon --data-path ETTh1.csv                  # both parts
    python -m experiments.long_horizon --data-path ETTh1.csv --steps-only     # what a training step takes
    python -m experiments.long_horizon --data-path ETTh1.csv --quality-only   # what the trained networks are worth

`protocol` has data, networks and losses, `steps` times a step, `quality` trains, `report` writes tables and figure.
A training that is finished is not done again: interrupt and continue as you like. Results are for one core.
"""
