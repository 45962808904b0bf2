"""When does DILATE help? N-HiTS, PatchTST and TiDE, each trained with MSE, MAE, soft-DTW and DILATE.

    python -m experiments.modern --data-path etth1=ETTh1.csv traffic=traffic.csv ecg5000=FOLDER
    python -m experiments.modern --report-only     # the tables again, of the trainings that are there

`protocol` has tasks, networks, losses and the rules by which settings are chosen, `trainings` trains and measures,
`report` writes tables and figure. A training that is finished is not done again: interrupt and continue as you like.
Needs `pip install -r experiments/modern/requirements.txt`, but for --report-only.
"""
