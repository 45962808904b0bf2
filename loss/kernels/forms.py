"""The two forms in which a device's sweep is asked for: for the cost of two series, and for given costs."""

from collections.abc import Callable


def _tensor(result, like, dimensions):
    return like.new_empty((0,) * dimensions) if result is None else result


def of_series(sweep: Callable) -> Callable:
    """What :func:`loss.kernels.series` calls, made of a device's sweep."""

    def series(x, y, gamma, omega, omega_scale, n, m, band, cost_scale, omega_in_cost, dual, weights, want_x, want_y, want_gamma):  # fmt: skip # noqa: E501
        wants, scales = (want_x, want_y, False, want_gamma), (cost_scale, omega_in_cost)
        value, value_dot, d_x, d_y, _, d_gamma = sweep(
            x, y, None, gamma, omega, omega_scale, n, m, band, scales, dual, weights, wants
        )
        return value, value_dot, _tensor(d_x, x, 4), _tensor(d_y, y, 4), _tensor(d_gamma, gamma, 2)

    return series


def of_costs(sweep: Callable) -> Callable:
    """What :func:`loss.kernels.matrix` calls, likewise."""

    def matrix(D, gamma, omega, n, m, band, dual, want_path, want_gamma):
        wants, no_scale = (False, False, want_path, want_gamma), gamma.new_empty(0)
        value, value_dot, _, _, E, d_gamma = sweep(
            None, None, D, gamma, omega, no_scale, n, m, band, (1.0, 0.0), dual, None, wants
        )
        return value, value_dot, _tensor(E, D, 4), _tensor(d_gamma, gamma, 2)

    return matrix
