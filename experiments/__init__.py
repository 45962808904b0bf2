"""The paper's tables and figures, run anew: ``python -m experiments.table1`` and its neighbours."""

from importlib.util import find_spec

_missing = [name for name in ("joblib", "ruptures", "scipy") if find_spec(name) is None]
if _missing:
    raise ModuleNotFoundError(
        f"The experiments need {' and '.join(_missing)}: pip install -r experiments/requirements.txt"
    )
